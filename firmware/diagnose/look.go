package diagnose

import (
	"encoding/binary"
)

// look takes from a packet what tells how far the VPN is.
func (f *watched) look(p packet, in bool) {
	b := p.payload
	switch f.Part {
	case Control:
		f.tcp(b, in)
	case GRE:
		f.ppp(greInner(b), in)
	case L2TP:
		if len(b) > 8 {
			f.l2tp(b[8:], in)
		}
	case SSTP, OpenVPN, WireGuard:
		if p.protocol == 6 {
			f.tcp(b, in)
		}
		f.tunnel(p, in)
	case IKE:
		if len(b) > 8 {
			f.ike(b[8:], in)
		}
	case NATT:
		switch {
		case len(b) < 12:
		case binary.BigEndian.Uint32(b[8:]) == 0: // the non-ESP marker, RFC 3948 2.2
			f.ike(b[12:], in)
		default:
			f.data(in)
		}
	}
}

func (f *watched) data(in bool) {
	if in {
		f.DataIn++
	} else {
		f.DataOut++
	}
}

func (f *watched) tcp(b []byte, in bool) {
	if len(b) < 14 {
		return
	}
	fin, syn, rst, ack := b[13]&1 != 0, b[13]&2 != 0, b[13]&4 != 0, b[13]&16 != 0
	switch {
	case !in && syn && !ack:
		f.syn, f.opened, f.Closed = true, false, false
		f.Sent = "SYN"
	case in && syn && ack:
		f.opened = true
	case in && syn:
		f.Called = true
	case in && rst && f.syn && !f.opened:
		f.Reset = true
	case fin || rst:
		f.Closed = true
	}
}

// l2tp reads the header of RFC 2661 3.1; control messages have their type in
// the first AVP (4.1).
func (f *watched) l2tp(b []byte, in bool) {
	if len(b) >= 20 && b[0]&0x80 != 0 && binary.BigEndian.Uint16(b[16:]) == 0 {
		name := map[uint16]string{1: "SCCRQ", 3: "SCCCN", 4: "StopCCN", 6: "HELLO", 10: "ICRQ", 12: "ICCN"}[binary.BigEndian.Uint16(b[18:])]
		switch {
		case in && name == "SCCRQ":
			f.Called = true
		case !in && name != "":
			f.Sent = name
		}
	}
	f.ppp(l2tpInner(b), in)
}

// ppp tells payload from what PPP negotiates with.
func (f *watched) ppp(b []byte, in bool) {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 3 {
		b = b[2:]
	}
	if len(b) < 1 {
		return
	}
	protocol := uint16(b[0])
	if b[0]&1 != 0 { // compressed, RFC 1661 6.5
		b = b[1:]
	} else if len(b) >= 2 {
		protocol, b = binary.BigEndian.Uint16(b), b[2:]
	}
	switch {
	case protocol < 0x4000: // a network protocol, also compressed or encrypted
		f.data(in)
	case protocol == 0x8021 && len(b) > 0 && b[0] == 2: // IPCP is up with an Ack of both ends, RFC 1332
		f.data(in)
	case len(b) > 0 && in && (protocol == 0xc223 && b[0] == 4 || protocol == 0xc023 && b[0] == 3):
		f.LoginRefused = true // CHAP, RFC 1994; PAP, RFC 1334
	case protocol == 0xc223 && len(b) > 0 && in && b[0] == 3:
		f.LoginRefused = false // a later attempt
	}
}

// greInner is the PPP frame in PPTP's GRE (RFC 2637 4.1), nil in a bare
// acknowledgement.
func greInner(b []byte) []byte {
	if len(b) < 8 || b[1]&7 != 1 || b[2] != 0x88 || b[3] != 0x0b || b[0]&0x10 == 0 {
		return nil
	}
	n := 12
	if b[1]&0x80 != 0 {
		n = 16
	}
	if len(b) < n {
		return nil
	}
	return b[n:]
}

// l2tpInner is the PPP frame in a data message (RFC 2661 3.1), nil in others.
func l2tpInner(b []byte) []byte {
	if len(b) < 6 || b[0]&0x80 != 0 || b[1]&15 != 2 {
		return nil
	}
	n := 6
	if b[0]&0x40 != 0 {
		n += 2
	}
	if b[0]&0x08 != 0 {
		n += 4
	}
	if b[0]&0x02 != 0 {
		if len(b) < n+2 {
			return nil
		}
		n += 2 + int(binary.BigEndian.Uint16(b[n:]))
	}
	if len(b) < n {
		return nil
	}
	return b[n:]
}
