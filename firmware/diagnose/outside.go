package diagnose

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// outside is what was seen at the WAN, where other addresses and ports hold
// than on the LAN.
type outside struct {
	ports   map[conversation]Part // far is 0: by the WAN's own ports
	calls   map[uint16]bool       // PPTP: the device's call IDs, RFC 2637 2.7
	spis    map[[8]byte]bool      // IKE: of its initiators
	esp     bool                  // the device sends ESP
	left    map[Part]bool         // what of it got to the WAN
	arrived map[Part]uint64       // from the server
	strays  map[Part]map[netip.AddrPort]uint64
	nat     natSeen
}

// mostStrays bounds what senders of packets can make the router remember.
const mostStrays = 32

// WAN takes an IP packet that was seen at the WAN.
func (w *Watch) WAN(b []byte, _ time.Duration) {
	p, ok := parse(b)
	switch {
	case !ok || keepalive(p):
	case p.dst == w.Server && p.src == w.Outside:
		w.at.leaves(p)
	case p.src == w.Server && p.dst == w.Outside:
		w.at.answers(p)
	case p.dst == w.Outside:
		if part, ok := w.at.called(p); ok {
			w.at.stray(part, p)
		}
	}
}

// leaves learns what the device's packets look like behind NAT.
func (o *outside) leaves(p packet) {
	part, ok := Of(p.protocol, p.dport)
	if !ok {
		part, ok = shape(p)
	}
	if !ok {
		part, ok = Of(p.protocol, p.sport)
	}
	if !ok {
		return
	}
	if o.left == nil {
		o.left, o.ports, o.calls, o.spis = map[Part]bool{}, map[conversation]Part{}, map[uint16]bool{}, map[[8]byte]bool{}
	}
	o.esp, o.left[part] = o.esp || part == ESP, true
	if p.sport == 0 {
		return
	}
	o.ports[conversation{protocol: p.protocol, device: p.sport}] = part
	if id, ok := outgoingCall(p); ok && part == Control {
		o.calls[id] = true
	}
	if spi, ok := initiator(part, p); ok && len(o.spis) < mostStrays {
		o.spis[spi] = true
	}
}

// initiator is the SPI of the one that began, in IKE.
func initiator(part Part, p packet) ([8]byte, bool) {
	b := p.inner()
	if part == NATT && len(b) >= 4 && binary.BigEndian.Uint32(b) == 0 {
		b = b[4:]
	} else if part != IKE {
		return [8]byte{}, false
	}
	if len(b) < 28 {
		return [8]byte{}, false
	}
	return [8]byte(b), true
}

// outgoingCall is the call ID in an Outgoing-Call-Request, RFC 2637 2.7.
func outgoingCall(p packet) (uint16, bool) {
	b := p.inner()
	if len(b) < 14 || binary.BigEndian.Uint32(b[4:]) != 0x1a2b3c4d || binary.BigEndian.Uint16(b[8:]) != 7 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[12:]), true
}

// called is the part that a packet to the WAN's address answers, by the port or
// the call ID that it goes to. ESP has neither.
func (o *outside) called(p packet) (Part, bool) {
	switch p.protocol {
	case 6, 17:
		part, ok := o.ports[conversation{protocol: p.protocol, device: p.dport}]
		if spi, ike := initiator(part, p); ike {
			return part, ok && o.spis[spi]
		}
		return part, ok
	case 47:
		return GRE, len(p.payload) >= 8 && o.calls[binary.BigEndian.Uint16(p.payload[6:])]
	case 50:
		return ESP, o.esp
	}
	return "", false
}

// answers takes a packet of the server.
func (o *outside) answers(p packet) {
	part, ok := Of(p.protocol, p.sport)
	if !ok {
		if part, ok = o.called(p); !ok {
			return
		}
		if part != OpenVPN && part != WireGuard { // these run on any port
			o.stray(part, p)
			return
		}
	}
	if o.arrived == nil {
		o.arrived = map[Part]uint64{}
	}
	o.arrived[part]++
	if part == IKE || part == NATT {
		o.nat.look(p)
	}
}

func (o *outside) stray(part Part, p packet) {
	if o.strays == nil {
		o.strays = map[Part]map[netip.AddrPort]uint64{}
	}
	if o.strays[part] == nil {
		o.strays[part] = map[netip.AddrPort]uint64{}
	}
	from := netip.AddrPortFrom(p.src, p.sport)
	if n := o.strays[part][from]; n > 0 || len(o.strays[part]) < mostStrays {
		o.strays[part][from] = n + 1
	}
}

// tell adds to a flow what was seen of it at the WAN. Servers in aside were
// called: one port of the WAN may serve several of them.
func (o *outside) tell(f *Flow, others bool, aside []netip.Addr) {
	if !others {
		f.Arrived = o.arrived[f.Part]
	}
	f.Held = f.Out.Packets > 0 && !o.left[f.Part]
	for from, n := range o.strays[f.Part] {
		if slices.Contains(aside, from.Addr()) {
			continue
		}
		if n > f.Stray || n == f.Stray && from.Compare(f.StrayFrom) < 0 {
			f.Stray, f.StrayFrom = n, from
		}
	}
	if f.Part == IKE || f.Part == NATT {
		f.ServerNAT, f.ClientNAT = o.nat.server, o.nat.client
	}
}
