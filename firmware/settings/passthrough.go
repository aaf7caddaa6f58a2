package settings

import (
	"net/netip"
	"slices"
)

// Passthrough has one switch a VPN protocol, and whom it is for. The help says
// what a switch can't see; docs/passthrough.md says more.
type Passthrough struct {
	PPTP      PassProtocol `json:"pptp" help:"PPTP: TCP 1723 and its GRE"`
	L2TP      PassProtocol `json:"l2tp" help:"L2TP outside IPsec: UDP 1701 and IP protocol 115"`
	IPsec     PassIPsec    `json:"ipsec" help:"IPsec: UDP 500 and 4500, ESP, AH"`
	SSTP      PassProtocol `json:"sstp" schema:"without=ports" help:"SSTP: TCP 443 of its servers, which look like any HTTPS site"`
	OpenVPN   PassProtocol `json:"openvpn" schema:"without=ports" help:"OpenVPN: port 1194, and its handshake at any; not inside TLS or obfuscated"`
	WireGuard PassProtocol `json:"wireguard" schema:"without=ports" help:"WireGuard: its handshake at any UDP port; not AmneziaWG and others that change it"`
	// Priority is an order of devices.
	Priority []string `json:"priority,omitempty" schema:"format=device,count=16" help:"devices in order: the first present keeps source port 1701 (500 without copies) and is let in first"`
}

// PassProtocol is the switch of one protocol. Devices and Servers are the two
// ends of its tunnels, in the LAN and beyond; an empty list is anybody. Those of
// SSTP are where it is looked for, see checkSSTP.
type PassProtocol struct {
	Enabled bool     `json:"enabled" schema:"self" help:"on or off"`
	Devices []string `json:"devices,omitempty" schema:"format=devices,count=256,empty=any" help:"the devices that may use it; any = all"`
	Servers []string `json:"servers,omitempty" schema:"format=servers,count=256,empty=any" help:"the Internet's ends that it may reach; any = all"`
	Ports   []int    `json:"ports,omitempty" schema:"min=1,max=65535,count=15,rare" help:"the ports at which it is looked for"` // TCP's or UDP's
}

// PassIPsec is the switch of IPsec, and the subnets behind its tunnels.
type PassIPsec struct {
	Enabled bool     `json:"enabled" schema:"self" help:"on or off"`
	Devices []string `json:"devices,omitempty" schema:"format=devices,count=256,empty=any" help:"the devices that may use it; any = all"`
	Servers []string `json:"servers,omitempty" schema:"format=servers,count=256,empty=any" help:"the Internet's ends that it may reach; any = all"`
	// Ports come beside 500 and 4500, which no IKE does without (RFC 7296 2).
	Ports []int `json:"ports,omitempty" schema:"min=1,max=65535,count=15,rare" help:"further UDP ports of IKE and NAT-T, beside 500 and 4500"`
	// Copy off leaves a server of native IPsec to one device at a time.
	Copy    bool              `json:"copy" schema:"rare" help:"copy what a server of several devices sends to each, until it is known whose it is; off = native IPsec for one device a server"`
	Subnets map[string]Subnet `json:"subnet,omitempty" schema:"format=prefix,count=16" help:"subnets that a device's tunnel leads to, for devices without IPsec"`
}

// Protocol is one of Passthrough by its name. Its lists are those of the tree.
type Protocol struct {
	Name string
	PassProtocol
}

// Protocols are those of p, in the order of the schema.
func (p *Passthrough) Protocols() []Protocol {
	ipsec := PassProtocol{Enabled: p.IPsec.Enabled, Devices: p.IPsec.Devices, Servers: p.IPsec.Servers, Ports: p.IPsec.Ports}
	return []Protocol{{"pptp", p.PPTP}, {"l2tp", p.L2TP}, {"ipsec", ipsec},
		{"sstp", p.SSTP}, {"openvpn", p.OpenVPN}, {"wireguard", p.WireGuard}}
}

func defaultPassthrough() Passthrough {
	on := PassProtocol{Enabled: true}
	p := Passthrough{PPTP: on, L2TP: on, IPsec: PassIPsec{Enabled: true, Copy: true}, SSTP: on, OpenVPN: on, WireGuard: on}
	p.PPTP.Ports, p.L2TP.Ports = []int{1723}, []int{1701}
	return p
}

// Prefixes are the addresses that words name, sorted and without overlap.
// Names are those of lan hosts and lan groups; unknown ones name nothing.
func (s *Settings) Prefixes(words []string) []netip.Prefix {
	var all []netip.Prefix
	for _, w := range s.Members(words) {
		if p, err := netip.ParsePrefix(w); err == nil {
			all = append(all, p.Masked())
		} else if a, ok := s.Device(w); ok && a.IsValid() {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return Disjoint(all)
}

// Disjoint sorts prefixes and leaves out those that others hold.
func Disjoint(all []netip.Prefix) []netip.Prefix {
	// Two prefixes are disjoint or one holds the other: the wider comes first.
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

func checkPassthrough(c *check) {
	serves := map[string]Server{}
	for _, s := range c.s.Firewall.Servers() {
		serves[s.Name] = s
	}
	for _, p := range c.s.Passthrough.Protocols() {
		c.devices("passthrough "+p.Name+" devices", p.Devices, true)
		if s, ok := serves[p.Name]; ok && p.Enabled {
			c.mayUse(p.Name, s.Path()+" to", s.Device)
		}
	}
	checkSubnets(c)
	checkPriority(c)
	checkSSTP(c)
	checkPassPorts(c, serves)
}

// mayUse checks that a device is among those that a protocol is for.
func (c *check) mayUse(protocol, path, device string) {
	for _, p := range c.s.Passthrough.Protocols() {
		a, known := c.s.Device(device)
		if p.Name == protocol && known && c.s.LAN.Address.IsValid() && usable(a, c.s.LAN.Address) && len(p.Devices) > 0 &&
			!slices.ContainsFunc(c.s.Prefixes(p.Devices), func(x netip.Prefix) bool { return x.Contains(a) }) {
			c.addf(path, device, "not among passthrough "+protocol+" devices", "one of them, or add it there")
		}
	}
}
