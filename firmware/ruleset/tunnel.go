package ruleset

import (
	"net/netip"
	"strconv"
)

// Expressions for tunnels that are translated without conntrack: see package
// plan/passthrough. Family ip only.

// Fields of headers that nft has no name for in a concatenation: it prints
// their offset and length in bits.
const (
	FieldSPI         Field = iota + FieldEtherSource + 1 // ESP: security parameters index, RFC 4303
	FieldCookieHigh                                      // IKE: initiator's SPI, first half, RFC 7296 3.1
	FieldCookieLow                                       // and second half
	FieldNextPayload                                     // IKE: type of the first payload
	FieldExchange                                        // IKE: exchange type
	// Of the packet that an ICMP error quotes, behind a header without options.
	FieldQuotedProtocol
	FieldQuotedSource
	FieldQuotedDest
	FieldQuotedSPI   // ESP
	FieldQuotedPorts // UDP: both, the source's first
	FieldQuotedCookieHigh
	FieldQuotedCookieLow
)

// ICMPType matches ICMP messages of a type.
type ICMPType uint8

// ICMP errors, RFC 792.
const (
	Unreachable      ICMPType = 3
	TimeExceeded     ICMPType = 11
	ParameterProblem ICMPType = 12
)

// Text is nft syntax.
func (e ICMPType) Text() string {
	switch e {
	case Unreachable:
		return "icmp type destination-unreachable"
	case TimeExceeded:
		return "icmp type time-exceeded"
	case ParameterProblem:
		return "icmp type parameter-problem"
	}
	return "icmp type " + strconv.Itoa(int(e))
}

// SetQuotedSource writes the source address of the packet that an ICMP error
// quotes: what a map has for the key.
type SetQuotedSource struct {
	Key Fields
	Map string
}

// Text is nft syntax.
func (e SetQuotedSource) Text() string {
	return fieldsText([]Field{FieldQuotedSource}) + " set " + fieldsText(e.Key) + " map @" + e.Map
}

// Notrack keeps the packet out of conntrack.
type Notrack struct{}

// Text is nft syntax.
func (Notrack) Text() string { return "notrack" }

// SetSource writes the source address.
type SetSource struct{ Addr netip.Addr }

// Text is nft syntax.
func (e SetSource) Text() string { return "ip saddr set " + e.Addr.String() }

// SetDest writes the destination address.
type SetDest struct{ Addr netip.Addr }

// Text is nft syntax.
func (e SetDest) Text() string { return "ip daddr set " + e.Addr.String() }

// SetDestFrom writes the destination address that a map has for the key; a key
// that is not in the map does not match.
type SetDestFrom struct {
	Key Fields
	Map string
}

// Text is nft syntax.
func (e SetDestFrom) Text() string { return "ip daddr set " + fieldsText(e.Key) + " map @" + e.Map }

// SetDestNexthop writes the address that the packet is routed to as its
// destination: a copy made by Dup becomes its receiver's own.
type SetDestNexthop struct{}

// Text is nft syntax.
func (SetDestNexthop) Text() string { return "ip daddr set rt ip nexthop" }

// Dup sends a copy of the packet to a neighbour, its addresses unchanged.
type Dup struct{ To netip.Addr }

// Text is nft syntax.
func (e Dup) Text() string { return "dup to " + e.To.String() }

// Learn adds the key, with the data in a map, to a learned set, or makes the
// element that is there live on; the data of one that is there never changes.
type Learn struct {
	Set       string
	Key, Data Fields
	Counter   bool // each element counts packets and bytes
}

// Text is nft syntax.
func (e Learn) Text() string {
	t := "update @" + e.Set + " { " + fieldsText(e.Key)
	if e.Counter {
		t += " counter"
	}
	if len(e.Data) > 0 {
		t += " : " + fieldsText(e.Data)
	}
	return t + " }"
}

// Spend adds the key to a learned set whose elements let so many packets pass,
// or makes the element that is there live on, and matches once they have: until
// Forget removes the element.
type Spend struct {
	Set     string
	Key     Fields
	Packets int
}

// Text is nft syntax. A limit has to be refilled at some rate: once an hour.
func (e Spend) Text() string {
	return "update @" + e.Set + " { " + fieldsText(e.Key) + " limit rate over 1/hour burst " + strconv.Itoa(e.Packets) + " packets }"
}

// Forget removes the key from a learned set; it always matches.
type Forget struct {
	Set string
	Key Fields
}

// Text is nft syntax.
func (e Forget) Text() string { return "delete @" + e.Set + " { " + fieldsText(e.Key) + " }" }

// Raw matches a field of a header that nft has no name for.
type Raw struct {
	Field Field
	Value uint32
}

// Text is nft syntax.
func (e Raw) Text() string {
	return fieldsText([]Field{e.Field}) + " 0x" + strconv.FormatUint(uint64(e.Value), 16)
}

// Log sends the start of the packet to the listeners of a group, see
// kernel/nflog.
type Log struct {
	Group  uint16
	Bytes  int // of the packet
	Prefix string
}

// Text is nft syntax.
func (e Log) Text() string {
	return "log prefix " + strconv.Quote(e.Prefix) + " group " + strconv.Itoa(int(e.Group)) + " snaplen " + strconv.Itoa(e.Bytes)
}
