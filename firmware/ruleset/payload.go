package ruleset

import "strconv"

// Base is where the offset of a Payload begins.
type Base uint8

// Bases.
const (
	Transport Base = iota // the transport header
	Inner                 // what TCP carries, whatever options its header has
)

// Payload matches bytes of a packet as a number, most significant byte first.
// A packet that ends before them does not match.
type Payload struct {
	Base   Base
	Offset int // in bytes
	Len    int // in bytes, at most 8
	Mask   uint64
	Value  uint64 // Mask 0: of all bits
}

// Text is nft syntax, which counts bits.
func (e Payload) Text() string {
	t := "@th,"
	if e.Base == Inner {
		t = "@ih,"
	}
	t += strconv.Itoa(8*e.Offset) + "," + strconv.Itoa(8*e.Len)
	if e.Mask != 0 {
		t += " & 0x" + strconv.FormatUint(e.Mask, 16) + " =="
	}
	return t + " 0x" + strconv.FormatUint(e.Value, 16)
}

// UDPLength matches UDP with a length field from Min to Max: the header of 8
// bytes and what it carries.
type UDPLength struct{ Min, Max int }

// Text is nft syntax.
func (e UDPLength) Text() string {
	t := "udp length " + strconv.Itoa(e.Min)
	if e.Max != e.Min {
		t += "-" + strconv.Itoa(e.Max)
	}
	return t
}

// UDPBlocks matches UDP that carries a multiple of Size bytes, a power of two
// from 16 on.
type UDPBlocks struct{ Size int }

// Text is nft syntax.
func (e UDPBlocks) Text() string { return "udp length & " + strconv.Itoa(e.Size-1) + " == 8" }

// Answers matches packets of the side that was called.
type Answers struct{}

// Text is nft syntax.
func (Answers) Text() string { return "ct direction reply" }

// PSH matches TCP segments that end what was said for now, RFC 9293 3.9.1.2.
type PSH struct{}

// Text is nft syntax.
func (PSH) Text() string { return "tcp flags psh" }
