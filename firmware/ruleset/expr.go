package ruleset

import (
	"net/netip"
	"strconv"
	"strings"
)

// Expr is a match or a statement of a rule.
type Expr interface {
	// Text is nft syntax.
	Text() string
}

// IP protocol numbers.
const (
	ICMP = 1
	TCP  = 6
	UDP  = 17
	GRE  = 47
	ESP  = 50
	AH   = 51
	L2TP = 115
)

// Iif matches the interface that a packet came in by. Names, not indexes: a
// name stays right when a link goes and comes back.
type Iif struct{ Name string }

// Text is nft syntax.
func (e Iif) Text() string { return "iifname " + strconv.Quote(e.Name) }

// Oif matches the interface that a packet leaves by.
type Oif struct{ Name string }

// Text is nft syntax.
func (e Oif) Text() string { return "oifname " + strconv.Quote(e.Name) }

// IPv4 matches the address family.
type IPv4 struct{}

// Text is nft syntax.
func (IPv4) Text() string { return "meta nfproto ipv4" }

// L4 matches the IP protocol.
type L4 struct{ Protocol uint8 }

// Text is nft syntax.
func (e L4) Text() string { return "meta l4proto " + ProtocolName(e.Protocol) }

// State matches any of these conntrack states (a bit mask).
type State uint32

// Conntrack states, as nft_ct numbers their bits.
const (
	Invalid     State = 1
	Established State = 2
	Related     State = 4
	New         State = 8
	Untracked   State = 64
)

// Text is nft syntax.
func (e State) Text() string {
	var s []string
	for _, n := range [...]struct {
		bit  State
		name string
	}{{Invalid, "invalid"}, {Established, "established"}, {Related, "related"}, {New, "new"}, {Untracked, "untracked"}} {
		if e&n.bit != 0 {
			s = append(s, n.name)
		}
	}
	return "ct state " + strings.Join(s, ",")
}

// DNATed matches connections whose destination was translated.
type DNATed struct{}

// Text is nft syntax.
func (DNATed) Text() string { return "ct status dnat" }

// Source matches the source address against a prefix.
type Source struct {
	Prefix netip.Prefix
	Not    bool
}

// Text is nft syntax.
func (e Source) Text() string { return addrText("saddr", e.Prefix, e.Not) }

// Dest matches the destination address against a prefix.
type Dest struct {
	Prefix netip.Prefix
	Not    bool
}

// Text is nft syntax.
func (e Dest) Text() string { return addrText("daddr", e.Prefix, e.Not) }

func addrText(field string, p netip.Prefix, not bool) string {
	op := " "
	if not {
		op = " != "
	}
	if p.Bits() == 32 {
		return "ip " + field + op + p.Addr().String()
	}
	return "ip " + field + op + p.Masked().String()
}

// Dport matches the protocol and the destination port; with protocol 0 the port
// alone, of what is known to have ports.
type Dport struct {
	Protocol uint8
	Port     int
}

// Text is nft syntax.
func (e Dport) Text() string {
	header := "th"
	if e.Protocol != 0 {
		header = ProtocolName(e.Protocol)
	}
	return header + " dport " + strconv.Itoa(e.Port)
}

// Sport matches the protocol and the source port.
type Sport struct {
	Protocol uint8
	Port     int
}

// Text is nft syntax.
func (e Sport) Text() string { return ProtocolName(e.Protocol) + " sport " + strconv.Itoa(e.Port) }

// Echo matches an ICMP echo request.
type Echo struct{}

// Text is nft syntax.
func (Echo) Text() string { return "icmp type echo-request" }

// SYN matches the first packet of a TCP handshake in either direction: SYN is
// set, RST is not.
type SYN struct{}

// Text is nft syntax.
func (SYN) Text() string { return "tcp flags syn / syn,rst" }

// Field is a part of a packet or of its connection, used as a key.
type Field uint8

// Fields.
const (
	FieldProtocol    Field = iota + 1 // meta l4proto
	FieldSport                        // th sport
	FieldDport                        // th dport
	FieldSource                       // ip saddr
	FieldDest                         // ip daddr
	FieldIif                          // iifname
	FieldOif                          // oifname
	FieldEtherSource                  // ether saddr; matches nothing on links without Ethernet's header
)

var fieldNames = [...]string{FieldProtocol: "meta l4proto", FieldSport: "th sport", FieldDport: "th dport", FieldSource: "ip saddr",
	FieldDest: "ip daddr", FieldIif: "iifname", FieldOif: "oifname", FieldEtherSource: "ether saddr", FieldSPI: "@th,0,32", FieldCookieHigh: "@th,64,32",
	FieldCookieLow: "@th,96,32", FieldNextPayload: "@th,192,8", FieldExchange: "@th,208,8",
	FieldQuotedProtocol: "@th,136,8", FieldQuotedSource: "@th,160,32", FieldQuotedDest: "@th,192,32", FieldQuotedSPI: "@th,224,32",
	FieldQuotedPorts: "@th,224,32", FieldQuotedCookieHigh: "@th,288,32", FieldQuotedCookieLow: "@th,320,32",
	FieldTunnel: "@th,80,16", FieldTunnelLong: "@th,96,16", FieldFirstSource: "ct original ip saddr", FieldFirstSport: "ct original proto-src",
	FieldMark: "meta mark"}

func fieldsText(fs []Field) string {
	s := make([]string, len(fs))
	for i, f := range fs {
		s[i] = fieldNames[f]
	}
	return strings.Join(s, " . ")
}

// Fields is a key made of fields.
type Fields []Field

// ProtocolPort is the commonest key.
func ProtocolPort() Fields { return Fields{FieldProtocol, FieldDport} }

// In matches when the key is in a set.
type In struct {
	Key Fields
	Set string
	Not bool
}

// Text is nft syntax.
func (e In) Text() string {
	op := " @"
	if e.Not {
		op = " != @"
	}
	return fieldsText(e.Key) + op + e.Set
}

// Vmap takes the verdict that a verdict map has for the key.
type Vmap struct {
	Key Fields
	Map string
}

// Text is nft syntax.
func (e Vmap) Text() string { return fieldsText(e.Key) + " vmap @" + e.Map }

// DNAT translates the destination to what a map (address . port) has for the
// key; a key that is not in the map does not match.
type DNAT struct {
	Key Fields
	Map string
}

// Text is nft syntax.
func (e DNAT) Text() string { return "dnat ip to " + fieldsText(e.Key) + " map @" + e.Map }

// Masquerade translates the source to the address of the interface that the
// packet leaves by.
type Masquerade struct{}

// Text is nft syntax.
func (Masquerade) Text() string { return "masquerade" }

// SNAT translates the source to an IPv4 address and a port of TCP or UDP of
// these, both included.
type SNAT struct {
	Addr        netip.Addr
	First, Last uint16
}

// Text is nft syntax.
func (e SNAT) Text() string {
	return "snat ip to " + e.Addr.String() + ":" + strconv.Itoa(int(e.First)) + "-" + strconv.Itoa(int(e.Last))
}

// ClampMSS lowers the MSS option to what the route carries.
type ClampMSS struct{}

// Text is nft syntax.
func (ClampMSS) Text() string { return "tcp option maxseg size set rt mtu" }

// Offload puts the flow into a flowtable. The rule ends there, without a
// verdict, when the kernel cannot carry the flow.
type Offload struct{ Flowtable string }

// Text is nft syntax.
func (e Offload) Text() string { return "flow add @" + e.Flowtable }

// SetHelper assigns a conntrack helper object to a new connection.
type SetHelper struct{ Name string }

// Text is nft syntax.
func (e SetHelper) Text() string { return "ct helper set " + strconv.Quote(e.Name) }

// Limit matches while packets come at no more than Rate a second.
type Limit struct{ Rate, Burst int }

// Text is nft syntax.
func (e Limit) Text() string {
	return "limit rate " + strconv.Itoa(e.Rate) + "/second burst " + strconv.Itoa(e.Burst) + " packets"
}

// Counter counts packets and bytes.
type Counter struct{}

// Text is nft syntax.
func (Counter) Text() string { return "counter" }

// Reject drops the packet and tells its sender.
type Reject uint8

// Ways to reject.
const (
	AdminProhibited Reject = iota + 1 // ICMP communication administratively prohibited, RFC 1812 5.2.7.1
	TCPReset
)

// Text is nft syntax.
func (e Reject) Text() string {
	if e == TCPReset {
		return "reject with tcp reset"
	}
	return "reject with icmpx admin-prohibited"
}

// Verdict ends the rule.
type Verdict struct {
	Kind  VerdictKind
	Chain string // of Jump and Goto
}

// VerdictKind is what a verdict does.
type VerdictKind uint8

// Verdict kinds; the zero value is no verdict.
const (
	Accept VerdictKind = iota + 1
	Drop
	Return
	Jump
	Goto
)

// Text is nft syntax.
func (v Verdict) Text() string {
	switch v.Kind {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Return:
		return "return"
	case Jump:
		return "jump " + v.Chain
	case Goto:
		return "goto " + v.Chain
	}
	return ""
}

// Text is nft syntax, with the comment.
func (r Rule) Text() string {
	if r.observed {
		return r.text
	}
	s := make([]string, len(r.Exprs), len(r.Exprs)+1)
	for i, e := range r.Exprs {
		s[i] = e.Text()
	}
	if c := Comment(r.Why); c != "" {
		s = append(s, `comment "`+c+`"`)
	}
	return strings.Join(s, " ")
}
