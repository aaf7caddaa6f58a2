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
	Device, Server netip.Addr
	Router         netip.Addr   // on the LAN
	Outside        netip.Addr   // the WAN's address
	Aside          []netip.Addr // other servers that were called
	flows          []*watched
	at             outside
}

// watched is a flow that grows.
type watched struct {
	Flow
	first, last time.Duration
	between     map[conversation]bool
	syn, opened bool // TCP: asked for, and answered with SYN-ACK
	others      bool // other devices get it too
	sizing      sizing
}

// conversation is the ports of a flow; protocols without have 0.
type conversation struct {
	protocol    uint8
	device, far uint16
}

// packet is an IPv4 packet, not a later fragment.
type packet struct {
	protocol     uint8
	whole        bool // must not be fragmented
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
	p := packet{protocol: b[9], whole: b[6]&0x40 != 0, src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])),
		bytes: uint64(binary.BigEndian.Uint16(b[2:])), payload: b[n:]}
	if (p.protocol == 6 || p.protocol == 17) && len(p.payload) >= 4 {
		p.sport, p.dport = binary.BigEndian.Uint16(p.payload), binary.BigEndian.Uint16(p.payload[2:])
	}
	return p, true
}

// inner is what UDP or TCP carries.
func (p packet) inner() []byte {
	n := 8
	if p.protocol == 6 {
		if len(p.payload) < 20 {
			return nil
		}
		n = int(p.payload[12]>>4) * 4
	}
	if len(p.payload) < n {
		return nil
	}
	return p.payload[n:]
}

// flow is that of a packet, by ports or by what it looks like; nil when it is of
// no VPN.
func (w *Watch) flow(p packet, c conversation, at time.Duration) *watched {
	var floated *watched
	for _, f := range w.flows {
		for have := range f.between {
			if have == c && c.far != 0 {
				f.last = at
				return f
			}
			if have.protocol == 17 && have.protocol == c.protocol && have.device == c.device {
				floated = f
			}
		}
	}
	part, ok := Of(c.protocol, c.far)
	if !ok {
		part, ok = shape(p)
	}
	if !ok && floated != nil {
		// The server answers from a port that was not called, as RFC 2661 8.1 allows.
		floated.between[c], floated.last = true, at
		return floated
	}
	if !ok && p.src == w.Server {
		part, ok = Of(c.protocol, c.device) // the device is the server
	}
	if !ok {
		return nil
	}
	for _, f := range w.flows {
		if f.Part == part {
			f.between[c], f.last = true, at
			return f
		}
	}
	f := &watched{Flow: Flow{Part: part, Watched: true}, first: at, last: at, between: map[conversation]bool{c: true}}
	w.flows = append(w.flows, f)
	return f
}

// LAN takes an IP packet that was seen on the LAN at a time of any clock that
// does not jump.
func (w *Watch) LAN(b []byte, at time.Duration) {
	p, ok := parse(b)
	if !ok || keepalive(p) {
		return
	}
	switch {
	case p.protocol == 1 && p.dst == w.Device:
		w.icmp(p, at)
	case p.src == w.Device && p.dst == w.Server:
		if f := w.flow(p, conversation{p.protocol, p.sport, p.dport}, at); f != nil {
			f.Out = Count{f.Out.Packets + 1, f.Out.Bytes + p.bytes}
			if p.sport != 0 {
				f.Ports = fmt.Sprintf("%d>%d", p.sport, p.dport)
			}
			f.take(p, false, at)
		}
	case p.src == w.Server && p.dst == w.Device:
		if f := w.flow(p, conversation{p.protocol, p.dport, p.sport}, at); f != nil {
			f.In = Count{f.In.Packets + 1, f.In.Bytes + p.bytes}
			if f.Ports == "" && p.sport != 0 {
				f.Ports = fmt.Sprintf("%d>%d", p.dport, p.sport)
			}
			f.take(p, true, at)
		}
	case p.src == w.Server:
		if part, ok := Of(p.protocol, p.sport); ok {
			for _, f := range w.flows {
				f.others = f.others || f.Part == part
			}
		}
	}
}

// take looks into a packet of the flow.
func (f *watched) take(p packet, in bool, at time.Duration) {
	before := f.DataIn + f.DataOut
	f.look(p, in)
	if f.Part == ESP || f.DataIn+f.DataOut > before {
		f.sized(p, in, at)
	}
}

// Flows is what was seen so far.
func (w *Watch) Flows(now time.Duration) []Flow {
	var out []Flow
	for _, f := range w.flows {
		g := f.Flow
		g.Age, g.Last = now-f.first, now-f.last
		g.Sizes = f.sizes(now)
		w.at.tell(&g, f.others, w.Aside)
		out = append(out, g)
	}
	return out
}

// icmp takes an error about what the device sent; those of the router are its
// own refusals, but for path MTU.
func (w *Watch) icmp(p packet, at time.Duration) {
	if len(p.payload) < 8 || p.payload[0] != 3 {
		return
	}
	code := p.payload[1]
	q, ok := parse(p.payload[8:])
	if !ok || q.src != w.Device || q.dst != w.Server || p.src == w.Router && code != 4 {
		return
	}
	f := w.flow(q, conversation{q.protocol, q.sport, q.dport}, at)
	switch {
	case f == nil:
	case code == 4: // RFC 1191
		f.tooBig(p.src, int(binary.BigEndian.Uint16(p.payload[6:])), at)
	default:
		f.Unreachable = p.src.String() + " says: " + unreachable(code)
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
