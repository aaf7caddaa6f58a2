// Package passthrough tells which VPN tunnels cross the router.
package passthrough

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

// View is how the router sees the networks around it.
type View struct {
	LAN   netip.Prefix // the router's address and the LAN's prefix length
	Names map[netip.Addr]string
	Now   time.Time // for the ages; the zero value leaves them out
	// Uptime bounds the ages: a connection that is older than the last jump of
	// the clock has a wrong start. 0 is no bound.
	Uptime time.Duration
	// Timeouts are the kernel's, to tell when the last packet was.
	Timeouts Timeouts
	Lookout
}

// IP protocols and ports.
const (
	tcp  = 6
	udp  = 17
	gre  = 47
	esp  = 50
	ah   = 51
	l2tp = 115

	ikePort = 500
)

// Sessions gives one line a connection of a tunnel, ordered by device, server
// and protocol, control before data. Connections that end at the router itself
// are none.
func Sessions(entries []conntrack.Entry, v View) []api.Session {
	out := []api.Session{}
	for i := range entries {
		if s, ok := session(&entries[i], v); ok {
			out = append(out, s)
		}
	}
	Sort(out)
	return out
}

func order(part string) int {
	return slices.Index([]string{"control", "ike", "nat-t", "esp", "ah", "data"}, part)
}

func session(e *conntrack.Entry, v View) (api.Session, bool) {
	k, ok := v.classify(e)
	if !ok || e.TCPState == conntrack.TimeWait || e.TCPState == conntrack.Close {
		return api.Session{}, false
	}
	s := api.Session{Protocol: k.protocol, Kind: k.part, Age: v.age(e.Start), Owner: owner(e), Last: v.Timeouts.last(e)}
	s.State = state(answered(e), s.Last)
	device := func(a netip.Addr) bool { return v.LAN.Contains(a) && a != v.LAN.Addr() }
	var own, far conntrack.Tuple // what the device sends, and how its answers are addressed outside
	switch {
	case device(e.Orig.Src):
		own, far = e.Orig, e.Reply
		s.Server = e.Orig.Dst
		s.BytesOut, s.BytesIn, s.PktsOut, s.PktsIn = e.OrigBytes, e.ReplyBytes, e.OrigPackets, e.ReplyPackets
	case device(e.Reply.Src):
		own, far = e.Reply, e.Orig
		s.Server = e.Orig.Src
		s.BytesOut, s.BytesIn, s.PktsOut, s.PktsIn = e.ReplyBytes, e.OrigBytes, e.ReplyPackets, e.OrigPackets
		s.Inbound = true
	default:
		return api.Session{}, false
	}
	// A tunnel's data may come first from either end: what counts is who opened
	// the control connection.
	if e.Master.Src.IsValid() {
		s.Inbound = !device(e.Master.Src)
	}
	s.Device, s.Name = own.Src, v.Names[own.Src]
	s.IDs = ids(e.Protocol, own, far)
	return s, true
}

// ids is what tells the tunnel from others to the same server: ports as the
// device uses them, with the one outside where NAT had to change it; PPTP's call
// IDs, the device's first.
func ids(protocol uint8, own, far conntrack.Tuple) string {
	switch protocol {
	case tcp, udp:
		name := "udp"
		if protocol == tcp {
			name = "tcp"
		}
		s := fmt.Sprintf("%s %d>%d", name, own.SrcPort, own.DstPort)
		if far.DstPort != own.SrcPort {
			s += fmt.Sprintf(" as %d", far.DstPort)
		}
		return s
	case gre:
		if own.SrcPort == 0 && own.DstPort == 0 {
			return "ip 47"
		}
		return fmt.Sprintf("call 0x%04x/0x%04x", own.SrcPort, own.DstPort)
	}
	return fmt.Sprintf("ip %d", protocol)
}

func (v View) age(start time.Time) time.Duration {
	if start.IsZero() || v.Now.IsZero() {
		return 0
	}
	age := max(0, v.Now.Sub(start))
	if v.Uptime > 0 {
		age = min(age, v.Uptime)
	}
	return age.Truncate(time.Second)
}
