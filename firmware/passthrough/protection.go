package passthrough

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

// cgnat is the space between providers' NATs and customers, RFC 6598.
var cgnat = netip.MustParsePrefix("100.64.0.0/10")

// Behind tells by the WAN's address which NAT is before the router, as
// api.Protection has it. A private address (RFC 1918) is another router's.
func Behind(wan netip.Addr) string {
	switch {
	case !wan.IsValid():
		return ""
	case cgnat.Contains(wan):
		return "cgnat"
	case wan.IsPrivate():
		return "nat"
	}
	return "none"
}

// Protection collects the connections of each device, by what they tell of its
// protection: protected is a device all of whose connections are encrypted
// tunnels. They are known by protocol and port; what is in them is not looked at.
type Protection struct {
	view    View
	wan     netip.Addr
	devices map[netip.Addr]*traffic
}

// traffic is what a device has.
type traffic struct {
	tunnels     []string
	negotiating bool // a tunnel, of which nothing more is known
	outside     map[string]*outside
}

type outside struct {
	flows   int
	bytes   uint64 // of the example
	example string
}

// Kinds of connections, the weightiest first; what is outside is in api.Outside.
const (
	pptpKind  = "pptp"
	plainKind = "plain tunnel"
	dnsKind   = "dns"
	otherKind = "other"
	httpsKind = "https"

	tunnelKind      = "tunnel"
	negotiationKind = "negotiation"
)

// NewProtection starts with no connections; wan is the WAN's address.
func NewProtection(v View, wan netip.Addr) *Protection {
	return &Protection{view: v, wan: wan, devices: map[netip.Addr]*traffic{}}
}

func (p *Protection) of(device netip.Addr) *traffic {
	t := p.devices[device]
	if t == nil {
		t = &traffic{outside: map[string]*outside{}}
		p.devices[device] = t
	}
	return t
}

// Add adds a connection. Those that stay on the LAN or end at the router are
// none, but for DNS: the router asks outside of the device's tunnel.
func (p *Protection) Add(e *conntrack.Entry) {
	device, far, ok := p.ends(e)
	if !ok {
		return
	}
	kind, name := p.view.purpose(e)
	router := far == p.view.LAN.Addr() || far == p.wan
	over := e.TCPState == conntrack.TimeWait || e.TCPState == conntrack.Close
	tunnel := kind == tunnelKind || kind == negotiationKind
	if router && kind != dnsKind || over && tunnel {
		return
	}
	t, quiet := p.of(device), quiet(p.view.Timeouts.last(e))
	switch {
	case kind == tunnelKind:
		t.tunnel(name + " to " + far.String() + quiet)
	case kind == negotiationKind:
		t.negotiating = true
	case router:
		t.add(kind, example(e, name, far)+" (the router, which asks outside)", e.OrigBytes+e.ReplyBytes)
	default:
		t.add(kind, example(e, name, far)+quiet, e.OrigBytes+e.ReplyBytes)
	}
}

// example names a connection outside of tunnels.
func example(e *conntrack.Entry, name string, far netip.Addr) string {
	switch {
	case e.Protocol != tcp && e.Protocol != udp, name != e.ProtocolName():
		return name + " to " + far.String()
	case e.Orig.Src == far:
		return fmt.Sprintf("%s from %s to its port %d", name, far, e.Reply.SrcPort)
	}
	return fmt.Sprintf("%s to %s", name, netip.AddrPortFrom(far, e.Orig.DstPort))
}

// AddNative adds what table ip knows of a device.
func (p *Protection) AddNative(n Native) {
	switch name := "IPsec to " + n.Server.String(); {
	case len(n.Out) > 0:
		p.of(n.Device).tunnel(name + quiet(&n.Out[0].Last))
	case len(n.own()) > 0:
		p.of(n.Device).tunnel(name)
	case len(n.Cookies) > 0 && n.Cookies[0].Last <= IdleAfter:
		p.of(n.Device).negotiating = true
	}
}

// ends are a connection's device and what is at its other end, as the device
// addresses it.
func (p *Protection) ends(e *conntrack.Entry) (device, far netip.Addr, ok bool) {
	isDevice := func(a netip.Addr) bool { return p.view.LAN.Contains(a) && a != p.view.LAN.Addr() }
	switch {
	case e.Orig.Dst.IsMulticast() || e.Orig.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
	case isDevice(e.Orig.Src):
		// A port forward may lead back to the LAN.
		return e.Orig.Src, e.Orig.Dst, !isDevice(e.Reply.Src)
	case isDevice(e.Reply.Src):
		return e.Reply.Src, e.Orig.Src, e.Orig.Src != p.view.LAN.Addr() && e.Orig.Src != p.wan
	}
	return netip.Addr{}, netip.Addr{}, false
}

const (
	dnsPort   = 53
	httpsPort = 443
)

// purpose tells what a connection is by the protocol and the port of the side
// that was called, and its name for people.
func (l Lookout) purpose(e *conntrack.Entry) (kind, name string) {
	tunnel := func(name string) (string, string) {
		if !answered(e) {
			return negotiationKind, name
		}
		return tunnelKind, name
	}
	switch k, known := l.classify(e); {
	case !known || k.caller:
	case k.part == "ike":
		return negotiationKind, "IKE"
	case k.part == "ah":
		return plainKind, "AH"
	case k.protocol == "ipsec":
		return tunnel("IPsec")
	case k.protocol == "pptp":
		return pptpKind, "PPTP"
	case k.protocol == "l2tp":
		return plainKind, "L2TP"
	case k.protocol == "gre":
		return plainKind, "GRE"
	default:
		return tunnel(map[string]string{"openvpn": "OpenVPN", "wireguard": "WireGuard", "sstp": "SSTP"}[k.protocol])
	}
	switch called := e.Reply.SrcPort; {
	case e.Protocol == tcp && called == httpsPort:
		return httpsKind, "tcp"
	case (e.Protocol == tcp || e.Protocol == udp) && called == dnsPort:
		return dnsKind, e.ProtocolName()
	}
	return otherKind, e.ProtocolName()
}

// quiet tells of connections that may only be remembered.
func quiet(last *time.Duration) string {
	if last == nil || *last <= IdleAfter {
		return ""
	}
	return fmt.Sprintf(" (quiet for %d min)", *last/time.Minute)
}

func (t *traffic) tunnel(s string) {
	if !slices.Contains(t.tunnels, s) {
		t.tunnels = append(t.tunnels, s)
	}
}

func (t *traffic) add(kind, example string, bytes uint64) {
	o := t.outside[kind]
	if o == nil {
		o = &outside{}
		t.outside[kind] = o
	}
	if o.flows == 0 || bytes > o.bytes || bytes == o.bytes && example < o.example {
		o.example, o.bytes = example, bytes
	}
	o.flows++
}

// Devices are those that have connections, by address.
func (p *Protection) Devices() []api.DeviceProtection {
	out := []api.DeviceProtection{}
	for a, t := range p.devices {
		d := api.DeviceProtection{Device: a, Name: p.view.Names[a], Tunnels: t.tunnels}
		slices.Sort(d.Tunnels)
		for _, kind := range []string{pptpKind, plainKind, dnsKind, otherKind, httpsKind} {
			if o := t.outside[kind]; o != nil {
				d.Outside = append(d.Outside, api.Outside{Kind: kind, Flows: o.flows, Example: o.example})
				d.Reasons = append(d.Reasons, reason(kind, o))
			}
		}
		switch {
		case len(d.Outside) > 0 && d.Outside[0].Kind != httpsKind:
			d.State = "unprotected"
		case len(d.Outside) > 0:
			d.State = "unknown"
		case len(d.Tunnels) > 0:
			d.State, d.Reasons = "protected", []string{strings.Join(d.Tunnels, ", ")}
		default:
			d.State, d.Reasons = "unknown", []string{"its tunnel is still negotiated"}
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b api.DeviceProtection) int { return a.Device.Compare(b.Device) })
	return out
}

// reason is why connections of a kind are not protected.
func reason(kind string, o *outside) string {
	n := fmt.Sprintf("%d connections", o.flows)
	if o.flows == 1 {
		n = "1 connection"
	}
	switch kind {
	case pptpKind:
		return fmt.Sprintf("PPTP encryption is broken (%s)", o.example)
	case plainKind:
		return fmt.Sprintf("this tunnel does not encrypt (%s)", o.example)
	case dnsKind:
		return fmt.Sprintf("DNS outside a tunnel: %s, e.g. %s", n, o.example)
	case httpsKind:
		return fmt.Sprintf("%s to TCP 443, HTTPS or a tunnel that looks like it (SSTP), e.g. %s", n, o.example)
	}
	return fmt.Sprintf("outside a tunnel: %s, e.g. %s", n, o.example)
}
