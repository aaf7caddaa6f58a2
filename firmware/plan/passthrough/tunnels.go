package passthrough

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// Native IPsec of many devices, also to one server.
//
// ESP has no ports, and some servers answer IKE to port 500 alone, so NAT by
// conntrack carries one device a server (RFC 3715, 2.1). Table ip takes both
// out of conntrack and translates addresses by what it learned:
//
//   - IKE between ports 500 goes by the initiator's SPI, which its first packet
//     shows and which names the SA for life (RFC 7296 3.1, RFC 2408 3.1).
//   - ESP from a server that one device talks to goes to that device.
//   - ESP from a server of several devices is copied to each. ESP is
//     authenticated: who has no SA for it drops it (RFC 4303 3.4), as stations
//     drop frames that a switch floods. Delivery never depends on a guess.
//
//   - A device that netd has learned to be the owner of an SPI gets its packets
//     alone, as long as nothing speaks against it: see owner.go.
//
// A second device of a server waits, for one retransmission of its first IKE
// packet, until netd has written the copies; the first needs nobody.

// Names in table ip. The exported ones are read for people.
const (
	servers   = "servers"  // servers that a device has an association with
	Assocs    = "assocs"   // server . device
	First     = "first"    // server : device that came first
	Cookies   = "cookies"  // server . initiator's SPI : device
	Outbound  = "outbound" // server . SPI : device, what devices send
	Sends     = "sends"    // server . SPI . device, the same to be looked up without being counted
	Inbound   = "inbound"  // server . SPI, what servers send
	copies    = "copies"   // server : chain that copies to its devices
	copied    = "copied"   // servers in copies
	Fresh     = "fresh"    // server . SPI . device, sent a moment ago
	early     = "early"
	earlyUDP  = "early_udp"
	earlyESP  = "early_esp"
	earlyIKE  = "early_ike"
	earlyICMP = "early_icmp"
	lanESP    = "lan_esp"
	wanESP    = "wan_esp"
	lanIKE    = "lan_ike"
	wanIKE    = "wan_ike"
	knownIKE  = "known_ike"
	knownESP  = "known_esp"
	newESP    = "new_esp"
	secondIKE = "second_ike"
	secondESP = "second_esp"
	delivery  = "delivery"
	wanICMP   = "wan_icmp"
	outbox    = "copies_out"
)

const ikePort = 500

// LogGroup is where the kernel tells of a second device of a server, see
// kernel/nflog.
const LogGroup = 50

// How long what was learned lives without a packet of the device. A device may
// be silent for hours (no dead peer detection, no keepalives) and still has
// to get what its server sends. An SPI is known again with its next packet.
const (
	assocTimeout  = 8 * time.Hour
	cookieTimeout = 8 * time.Hour
	spiTimeout    = time.Hour
	// What a device sent so long ago need not be noted again: so exact is what is
	// known of its last packet.
	freshTimeout = 5 * time.Second
)

// Network is where tunnels run.
type Network struct {
	LANDevice, WANDevice string
	LAN                  netip.Prefix
	WAN                  netip.Addr // invalid while the WAN is down
	RAM                  int        // megabytes, for the limits
	Shared               []facts.Association
	Server               netip.Addr // the LAN's IPsec server; invalid: there is none
	Subnets              []Subnet   // that tunnels of devices lead to
	Keeper               netip.Addr // see Keeper; invalid: there is none
	Facts                facts.Facts
	allowed              limit
	alone                bool // a server is one device's, see settings.PassIPsec.Copy
}

// IPsecTable is table ip; nil when IPsec does not pass or there is no WAN.
func IPsecTable(on bool, n Network) *rs.Table {
	if !on || !n.WAN.Is4() {
		return nil
	}
	n.Shared = n.allowed.devices.allowed(n.Shared)
	if n.alone {
		n.Shared = nil
	}
	t := &rs.Table{Sets: slices.Concat(n.sets(), n.quotaSets(), n.allowed.sets()), Chains: append(n.early(), overLimit(), n.copiesOut())}
	if len(n.Shared) > 0 {
		t.Sets, t.Chains = append(t.Sets, n.ownerSets()...), append(t.Chains, n.ownerChains()...)
	}
	for i, a := range n.Shared {
		t.Chains = append(t.Chains, n.copies(i, a))
	}
	return t
}

// LearnedSet is the learned set of that name, for who reads it or adds to it.
func LearnedSet(name string) rs.Set {
	for _, s := range slices.Concat(Network{}.sets(), Network{}.quotaSets(), Network{}.ownerSets(), Network{}.l2tpSets()) {
		if s.Name == name {
			return s
		}
	}
	return rs.Set{Name: name}
}

// limit is how many entries a table of this kind has: 4096 for 64 MB.
func (n Network) limit() int { return min(64*max(n.RAM, 64), 1<<16) }

func (n Network) sets() []rs.Set {
	addr := rs.IPv4Addr
	learned := func(name string, timeout time.Duration, data []rs.Type, key ...rs.Type) rs.Set {
		return rs.Set{Name: name, Key: key, Data: data, Learned: true, Timeout: timeout, Size: n.limit()}
	}
	device := []rs.Type{addr}
	shared, plain := rs.Set{Name: copies, Key: []rs.Type{addr}, Verdicts: true}, rs.Set{Name: copied, Key: []rs.Type{addr}}
	for i, a := range n.Shared {
		plain.Elements = append(plain.Elements, rs.Element{Key: rs.Addr(a.Server)})
		shared.Elements = append(shared.Elements, rs.Element{Key: rs.Addr(a.Server), Verdict: rs.Verdict{Kind: rs.Goto, Chain: copyChain(i)}})
	}
	shared.Sort()
	plain.Sort()
	return []rs.Set{
		learned(servers, assocTimeout, nil, addr),
		learned(Assocs, assocTimeout, nil, addr, addr),
		learned(First, assocTimeout, device, addr),
		learned(Cookies, cookieTimeout, device, addr, addr, addr),
		learned(Outbound, spiTimeout, device, addr, addr),
		// No longer than the association, which it stands for.
		learned(Sends, assocTimeout, nil, addr, addr, addr),
		learned(Fresh, freshTimeout, nil, addr, addr, addr),
		learned(Inbound, cookieTimeout, nil, addr, addr),
		shared, plain,
	}
}

func copyChain(i int) string { return "copy_" + strconv.Itoa(i+1) }

var (
	ikeKey = rs.Fields{rs.FieldDest, rs.FieldCookieHigh, rs.FieldCookieLow}
	accept = rs.Verdict{Kind: rs.Accept}
	drop   = rs.Verdict{Kind: rs.Drop}
)

func to(chain string) rs.Verdict { return rs.Verdict{Kind: rs.Goto, Chain: chain} }

// early comes before conntrack looks at the packet, and after fragments have
// become packets.
func (n Network) early() []rs.Chain {
	const why = "passthrough ipsec on"
	ike := []rs.Expr{rs.Sport{Protocol: rs.UDP, Port: ikePort}}
	wan := netip.PrefixFrom(n.WAN, 32)
	// To the WAN's address is to the LAN's server or to the router.
	fromLAN := []rs.Expr{rs.Iif{Name: n.LANDevice}, rs.Source{Prefix: n.LAN.Masked()}, rs.Dest{Prefix: n.LAN.Masked(), Not: true}, rs.Dest{Prefix: wan, Not: true}}
	fromWAN := []rs.Expr{rs.Iif{Name: n.WANDevice}, rs.Dest{Prefix: wan}}
	rule := func(what []rs.Expr, from []rs.Expr, chain string) rs.Rule {
		return rs.R(why, append(append(slices.Clone(what), from...), to(chain))...)
	}
	pair := rs.Fields{rs.FieldDest, rs.FieldSource}
	association := []rs.Expr{rs.Learn{Set: servers, Key: rs.Fields{rs.FieldDest}}, rs.Learn{Set: Assocs, Key: pair},
		rs.Learn{Set: First, Key: rs.Fields{rs.FieldDest}, Data: rs.Fields{rs.FieldSource}}}
	begin := func(last rs.Verdict) []rs.Rule { return learn("the first device", last, nil, association...) }
	cookie := rs.Learn{Set: Cookies, Key: ikeKey, Data: rs.Fields{rs.FieldSource}}
	outbound := rs.Learn{Set: Outbound, Key: rs.Fields{rs.FieldDest, rs.FieldSPI}, Data: rs.Fields{rs.FieldSource}, Counter: true}
	livesOn := func(element rs.Learn) []rs.Expr { return append(slices.Clone(association), element, rs.Notrack{}) }
	sends := rs.Learn{Set: Sends, Key: rs.Fields{rs.FieldDest, rs.FieldSPI, rs.FieldSource}}
	known := rs.In{Key: pair, Set: Assocs}
	taken := rs.In{Key: rs.Fields{rs.FieldDest}, Set: servers}
	spi := rs.In{Key: spiIn, Set: Inbound}
	fromOthers := slices.Concat(n.allowed.devices.pass(rs.FieldSource), n.allowed.servers.pass(rs.FieldDest), n.keepNative())
	others := n.allowed.servers.pass(rs.FieldSource)
	return []rs.Chain{
		// Every packet of the router that is not in the flowtable pays for what is here.
		{Name: early, Type: "filter", Hook: rs.Prerouting, Priority: -300, Rules: []rs.Rule{
			rs.R(why, rs.L4{Protocol: rs.UDP}, to(earlyUDP)),
			rs.R("most traffic", rs.L4{Protocol: rs.TCP}, accept),
			rs.R(why, rs.L4{Protocol: rs.ESP}, to(earlyESP)),
			rs.R(why, rs.L4{Protocol: rs.ICMP}, to(earlyICMP)),
		}},
		{Name: earlyUDP, Rules: []rs.Rule{rs.R(why, calls(ikePort), to(earlyIKE))}},
		{Name: earlyESP, Rules: append(n.lives(sends.Key, outbound.Key), rule(nil, fromWAN, wanESP), rule(nil, fromLAN, lanESP))},
		{Name: earlyIKE, Rules: []rs.Rule{rule(ike, fromWAN, wanIKE), rule(ike, fromLAN, lanIKE)}},
		{Name: earlyICMP, Rules: []rs.Rule{
			rule([]rs.Expr{rs.Unreachable}, fromWAN, wanICMP), rule([]rs.Expr{rs.TimeExceeded}, fromWAN, wanICMP), rule([]rs.Expr{rs.ParameterProblem}, fromWAN, wanICMP),
		}},
		{Name: lanIKE, Rules: slices.Concat(fromOthers, []rs.Rule{
			rs.R("a known device", known, to(knownIKE)),
			rs.R("the server has another", taken, to(secondIKE)),
		}, n.answers(), begin(to(knownIKE)))},
		{Name: secondIKE, Rules: n.second(rs.R("it asks again", drop))},
		{Name: knownIKE, Rules: append([]rs.Rule{
			notItsPacket(37, 41), // RFC 7296: INFORMATIONAL, Notify
			notItsPacket(5, 11),  // RFC 2408: Informational, Notification
			rs.R("lives on", append([]rs.Expr{rs.In{Key: cookie.Key, Set: Cookies}}, append(livesOn(cookie), accept)...)...),
		}, learn("a new IKE SA", accept, []rs.Expr{rs.In{Key: cookie.Key, Set: Cookies, Not: true}}, livesOn(cookie)...)...)},
		{Name: lanESP, Rules: slices.Concat(fromOthers, []rs.Rule{
			rs.R("a known SPI", rs.In{Key: sends.Key, Set: Sends}, to(knownESP)),
			rs.R("a known device", known, to(newESP)),
			rs.R("the server has another", taken, to(secondESP)),
		}, begin(to(newESP)))},
		{Name: secondESP, Rules: n.second(rs.R("it goes out all the same", rs.Notrack{}, accept))},
		{Name: knownESP, Rules: append(n.hear(),
			rs.R("for a moment", rs.Learn{Set: Fresh, Key: sends.Key}),
			rs.R("lives on", append(livesOn(outbound), accept)...))},
		{Name: newESP, Rules: learn("a new SPI", to(knownESP), []rs.Expr{rs.In{Key: sends.Key, Set: Sends, Not: true}}, sends)},
		{Name: wanIKE, Rules: slices.Concat(others, []rs.Rule{
			rs.R("by the initiator's SPI", rs.SetDestFrom{Key: rs.Fields{rs.FieldSource, rs.FieldCookieHigh, rs.FieldCookieLow}, Map: Cookies}, rs.Notrack{}, accept),
		}, n.inbound())},
		{Name: wanESP, Rules: slices.Concat(others, []rs.Rule{
			// The lookup counts. A server of nobody teaches nothing.
			rs.R("a known SPI", spi, to(delivery)),
		}, learnInbound(), n.inbound())},
		{Name: delivery, Rules: append(n.toOwner(), n.inbound()...)},
		n.errors(),
	}
}

// lives is the short way of a device's ESP: what it sent a moment ago was
// checked then. The second lookup counts. Where a server is shared each packet
// is looked at, see hear.
func (n Network) lives(sends, outbound rs.Fields) []rs.Rule {
	if len(n.Shared) > 0 {
		return nil
	}
	return []rs.Rule{rs.R("a moment ago too", rs.Iif{Name: n.LANDevice}, rs.In{Key: sends, Set: Fresh}, rs.In{Key: outbound, Set: Outbound}, rs.Notrack{}, accept)}
}

// second tells netd of a further device of a server, and does with its packet
// what has to be done meanwhile. Where copies are off the device is left to
// conntrack, which gives it another port: IKE goes on in UDP 4500 then, if the
// server knows NAT traversal (RFC 7296 2.23).
func (n Network) second(meanwhile rs.Rule) []rs.Rule {
	if n.alone {
		return []rs.Rule{rs.R("passthrough ipsec copy off", accept)}
	}
	return []rs.Rule{tell(), meanwhile}
}

// otherPort is for IKE that is left to conntrack: answers to port 500 are those
// of the device that came first.
func otherPort(n Network) []rs.Rule {
	return []rs.Rule{rs.R("passthrough ipsec copy off", rs.IPv4{}, rs.Oif{Name: n.WANDevice}, rs.Source{Prefix: n.LAN.Masked()},
		rs.Sport{Protocol: rs.UDP, Port: 500}, rs.Dport{Protocol: rs.UDP, Port: 500}, rs.SNAT{Addr: n.WAN, First: 1024, Last: 65535})}
}

// answers are those of the LAN's IPsec server to peers that it has no SA with.
// Conntrack leads such a peer's packets to it, so they need not be learned, and
// must not be: anybody can send the first packet, with any source. The ESP of
// an SA is learned as that of any device.
func (n Network) answers() []rs.Rule {
	if !n.Server.Is4() {
		return nil
	}
	return []rs.Rule{rs.R("firewall vpn-server ipsec", rs.Source{Prefix: netip.PrefixFrom(n.Server, 32)}, rs.Notrack{}, accept)}
}

// notItsPacket drops a device's answer to the copy of a packet of somebody
// else's SA: INVALID_IKE_SPI or INVALID-COOKIE in the clear would end that SA.
// What belongs to an SA is encrypted and begins with another payload.
func notItsPacket(exchange, payload uint32) rs.Rule {
	return rs.R("not its packet", rs.In{Key: rs.Fields{rs.FieldDest}, Set: copied},
		rs.Raw{Field: rs.FieldExchange, Value: exchange}, rs.Raw{Field: rs.FieldNextPayload, Value: payload}, drop)
}

// inbound delivers what no exact key tells the owner of; what comes from a
// server of nobody goes on to conntrack, and so to a port forward or nowhere.
func (n Network) inbound() []rs.Rule {
	return []rs.Rule{
		rs.R("several devices", rs.Vmap{Key: rs.Fields{rs.FieldSource}, Map: copies}),
		rs.R("its only device", rs.SetDestFrom{Key: rs.Fields{rs.FieldSource}, Map: First}, rs.Notrack{}, accept),
	}
}

// errors are ICMP errors about what a device sent, path MTU among them: to the
// device, about the address that it knows.
func (n Network) errors() rs.Chain {
	about := func(protocol uint32, set string, key ...rs.Field) rs.Rule {
		a := n.WAN.As4()
		e := []rs.Expr{rs.Raw{Field: rs.FieldQuotedProtocol, Value: protocol}, rs.Raw{Field: rs.FieldQuotedSource, Value: binary.BigEndian.Uint32(a[:])}}
		if protocol == rs.UDP {
			e = append(e, rs.Raw{Field: rs.FieldQuotedPorts, Value: 500<<16 | 500})
		}
		return rs.R("passthrough ipsec on", append(e, rs.SetQuotedSource{Key: key, Map: set}, rs.SetDestFrom{Key: key, Map: set}, rs.Notrack{}, accept)...)
	}
	return rs.Chain{Name: wanICMP, Rules: []rs.Rule{
		about(rs.ESP, Outbound, rs.FieldQuotedDest, rs.FieldQuotedSPI),
		about(rs.UDP, Cookies, rs.FieldQuotedDest, rs.FieldQuotedCookieHigh, rs.FieldQuotedCookieLow),
	}}
}

// copies sends one to each device of a server.
func (n Network) copies(i int, a facts.Association) rs.Chain {
	c := rs.Chain{Name: copyChain(i)}
	if len(a.Devices) == 1 { // the others are gone
		c.Rules = []rs.Rule{rs.R("the device that is left", rs.SetDest{Addr: a.Devices[0]}, rs.Notrack{}, accept)}
		return c
	}
	for _, d := range a.Devices {
		c.Rules = append(c.Rules, rs.R("a copy", rs.Dup{To: d}))
	}
	c.Rules = append(c.Rules, rs.R("the original", drop))
	return c
}

// copiesOut gives copies, which the router sends to their receivers but which
// carry the WAN's address, the receiver's.
func (n Network) copiesOut() rs.Chain {
	return rs.Chain{Name: outbox, Type: "filter", Hook: rs.Output, Priority: 0, Rules: []rs.Rule{
		rs.R("copies", rs.Untracked, rs.Oif{Name: n.LANDevice}, rs.Dest{Prefix: netip.PrefixFrom(n.WAN, 32)}, rs.SetDestNexthop{}),
	}}
}

// Untracked accepts, in the forward chain of table inet, what table ip has
// taken out of conntrack. The source is translated there: no packet of another
// kind pays for a chain of its own.
func Untracked(n Network) []rs.Rule {
	return []rs.Rule{
		rs.R("passthrough ipsec on", rs.Untracked, rs.Iif{Name: n.LANDevice}, rs.Oif{Name: n.WANDevice}, rs.Source{Prefix: n.LAN.Masked()}, rs.SetSource{Addr: n.WAN}, accept),
		rs.R("passthrough ipsec on", rs.Untracked, rs.Iif{Name: n.WANDevice}, rs.Oif{Name: n.LANDevice}, rs.Source{Prefix: n.LAN.Masked(), Not: true}, accept),
	}
}

// calls matches the destination port of what is known to be UDP.
func calls(port int) rs.Expr { return rs.Dport{Port: port} }
