package passthrough

import (
	"net/netip"
	"slices"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

// Lookout is where tunnels are looked for that are known by their port.
type Lookout struct {
	Ports map[Port]string // the protocol of passthrough, "pptp"
	// SSTP are its servers: at TCP 443 nothing else tells it from HTTPS. Served
	// is the LAN's own, which calls through a port forward come to.
	SSTP   []netip.Prefix
	Served netip.Addr
}

// Port is one of TCP or UDP.
type Port struct {
	Protocol uint8
	Number   uint16
}

// kind is what an entry is part of: the VPN protocol, and which part.
type kind struct {
	protocol, part string
	caller         bool // known by the port of the side that called
}

// classify looks at the ports of the side that was called: that of the
// answers, which is a LAN server's own port even behind a port forward. Ends of
// L2TP and IKE like to use their port to call, too.
func (l Lookout) classify(e *conntrack.Entry) (kind, bool) {
	switch e.Protocol {
	case tcp, udp:
		return l.byPort(e)
	case gre:
		if e.Orig.SrcPort != 0 || e.Orig.DstPort != 0 || e.Master.Src.IsValid() {
			return kind{protocol: "pptp", part: "data"}, true
		}
		return kind{protocol: "gre", part: "data"}, true
	case esp:
		return kind{protocol: "ipsec", part: "esp"}, true
	case ah:
		return kind{protocol: "ipsec", part: "ah"}, true
	case l2tp:
		return kind{protocol: "l2tp", part: "data"}, true
	}
	return kind{}, false
}

func (l Lookout) byPort(e *conntrack.Entry) (kind, bool) {
	port := e.Reply.SrcPort
	k := kind{protocol: l.Ports[Port{e.Protocol, port}], part: "data"}
	if from := l.Ports[Port{e.Protocol, e.Orig.SrcPort}]; k.protocol == "" && e.Protocol == udp && (from == "l2tp" || from == "ipsec") {
		k.protocol, k.caller, port = from, true, e.Orig.SrcPort
	}
	switch {
	case k.protocol == "" && l.isSSTP(e):
		k.protocol = "sstp"
	case k.protocol == "pptp":
		k.part = "control"
	case k.protocol == "ipsec" && port == ikePort:
		k.part = "ike"
	case k.protocol == "ipsec":
		k.part = "nat-t"
	}
	return k, k.protocol != ""
}

func (l Lookout) isSSTP(e *conntrack.Entry) bool {
	if e.Protocol != tcp || e.Reply.SrcPort != httpsPort {
		return false
	}
	return e.DNATed() && e.Reply.Src == l.Served || slices.ContainsFunc(l.SSTP, func(p netip.Prefix) bool { return p.Contains(e.Reply.Src) })
}

// Relevant tells whether the entry may be part of a tunnel: enough to keep it
// for Sessions.
func (l Lookout) Relevant(e *conntrack.Entry) bool {
	_, ok := l.classify(e)
	return ok
}
