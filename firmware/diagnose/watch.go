package diagnose

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Watch collects what passes between a device and a server. The packets are
// looked at on both sides of the router: on the LAN as the device sends and
// gets them, whatever the firewall does with them, and at the WAN as they come.
type Watch struct {
	Device, Server, Router netip.Addr // Router is its LAN address
	flows                  []*watched
}

// watched is a flow that grows.
type watched struct {
	Flow
	first, last time.Duration
	syn, opened bool // TCP: asked for, and answered with SYN-ACK
	arrived     uint64
	others      bool // other devices get it too
}

// packet is an IPv4 packet, not a later fragment.
type packet struct {
	protocol     uint8
	src, dst     netip.Addr
	bytes        uint64
	sport, dport uint16
	payload      []byte // behind the IP header; may be cut
}

func parse(b []byte) (packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return packet{}, false
	}
	n := int(b[0]&15) * 4
	if n < 20 || len(b) < n || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return packet{}, false
	}
	p := packet{protocol: b[9], src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])),
		bytes: uint64(binary.BigEndian.Uint16(b[2:])), payload: b[n:]}
	if (p.protocol == 6 || p.protocol == 17) && len(p.payload) >= 4 {
		p.sport, p.dport = binary.BigEndian.Uint16(p.payload), binary.BigEndian.Uint16(p.payload[2:])
	}
	return p, true
}

// flow is that of a packet of the server's port.
func (w *Watch) flow(protocol uint8, port uint16, at time.Duration) *watched {
	part, ok := Of(protocol, port)
	if !ok {
		return nil
	}
	for _, f := range w.flows {
		if f.Part == part {
			f.last = at
			return f
		}
	}
	f := &watched{Flow: Flow{Part: part, Watched: true}, first: at, last: at}
	w.flows = append(w.flows, f)
	return f
}

// LAN takes an IP packet that was seen on the LAN at a time of any clock that
// does not jump.
func (w *Watch) LAN(b []byte, at time.Duration) {
	p, ok := parse(b)
	if !ok {
		return
	}
	switch {
	case p.protocol == 1 && p.dst == w.Device:
		w.icmp(p, at)
	case p.src == w.Device && p.dst == w.Server:
		if keepalive(p) {
			return
		}
		if f := w.flow(p.protocol, p.dport, at); f != nil {
			f.Out = Count{f.Out.Packets + 1, f.Out.Bytes + p.bytes}
			if p.sport != 0 {
				f.Ports = fmt.Sprintf("%d>%d", p.sport, p.dport)
			}
			f.look(p, false)
		}
	case p.src == w.Server && p.dst == w.Device:
		if keepalive(p) {
			return
		}
		if f := w.flow(p.protocol, p.sport, at); f != nil {
			f.In = Count{f.In.Packets + 1, f.In.Bytes + p.bytes}
			f.look(p, true)
		}
	case p.src == w.Server:
		if f := w.known(p); f != nil {
			f.others = true
		}
	}
}

// WAN takes an IP packet that was seen at the WAN.
func (w *Watch) WAN(b []byte, _ time.Duration) {
	if p, ok := parse(b); ok && p.src == w.Server && !keepalive(p) {
		if f := w.known(p); f != nil {
			f.arrived++
		}
	}
}

// known is the flow of a packet of the server that the device takes part in.
func (w *Watch) known(p packet) *watched {
	part, ok := Of(p.protocol, p.sport)
	for _, f := range w.flows {
		if ok && f.Part == part {
			return f
		}
	}
	return nil
}

// Flows is what was seen so far.
func (w *Watch) Flows(now time.Duration) []Flow {
	var out []Flow
	for _, f := range w.flows {
		g := f.Flow
		g.Age, g.Last = now-f.first, now-f.last
		if !f.others {
			g.Arrived = f.arrived
		}
		out = append(out, g)
	}
	return out
}

// icmp takes an error about what the device sent; those of the router are its
// own refusals.
func (w *Watch) icmp(p packet, at time.Duration) {
	if len(p.payload) < 8 || p.payload[0] != 3 || p.payload[1] == 4 || p.src == w.Router {
		return
	}
	q, ok := parse(p.payload[8:])
	if !ok || q.src != w.Device || q.dst != w.Server {
		return
	}
	if f := w.flow(q.protocol, q.dport, at); f != nil {
		f.Unreachable = p.src.String() + " says: " + unreachable(p.payload[1])
	}
}

// unreachable is a code of ICMP's destination unreachable, RFC 792 and 1812.
func unreachable(code byte) string {
	switch code {
	case 0:
		return "network unreachable"
	case 1:
		return "host unreachable"
	case 2:
		return "protocol unreachable"
	case 3:
		return "port unreachable"
	case 9, 10, 13:
		return "administratively prohibited"
	}
	return fmt.Sprintf("unreachable (code %d)", code)
}

// keepalive is NAT traversal's, RFC 3948 2.3.
func keepalive(p packet) bool {
	return p.protocol == 17 && len(p.payload) == 9 && p.payload[8] == 0xff && (p.sport == 4500 || p.dport == 4500)
}

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
			f.ppp(l2tpInner(b[8:]), in)
		}
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
	syn, ack, rst := b[13]&2 != 0, b[13]&16 != 0, b[13]&4 != 0
	switch {
	case !in && syn && !ack:
		f.syn, f.opened = true, false
	case in && syn && ack:
		f.opened = true
	case in && rst && f.syn && !f.opened:
		f.Reset = true
	}
}

// ike reads the header of RFC 7296 3.1 and RFC 2408 3.1.
func (f *watched) ike(b []byte, in bool) {
	if len(b) < 28 {
		return
	}
	version, exchange, flags := b[17]>>4, b[18], b[19]
	switch {
	case version == 1:
		f.IKEv1 = true
		f.Authenticated = f.Authenticated || in && exchange == 32 // Quick Mode
	case version == 2:
		f.Authenticated = f.Authenticated || in && exchange == 35 && flags&0x20 != 0 // response of IKE_AUTH
	}
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
