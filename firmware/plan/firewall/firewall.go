// Package firewall decides the ruleset: what reaches the router, what crosses
// it, and how addresses are translated. It is pure.
//
// A packet of an established flow passes few rules: sets and maps take the
// place of a rule an item, and there are three base chains on its way.
package firewall

import (
	"net/netip"
	"slices"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Input is everything that the ruleset depends on.
type Input struct {
	LANDevice string
	WANDevice string
	LAN       netip.Prefix         // the router's address and prefix length, in effect
	WAN       []netip.Addr         // the WAN's addresses; none while it is down
	Claimed   bool                 // the router has an owner: only then SSH may be open to the Internet
	RAM       int                  // megabytes, for the limits
	Shared    []facts.Association  // IPsec servers that several devices talk to
	Subnets   []passthrough.Subnet // that tunnels of devices lead to
	Settings  *settings.Settings
	Facts     facts.Facts // whose addresses names are
}

// Names in the table.
const (
	forwardsMap  = "forwards"
	protocolsMap = "protocol_forwards"
	wanAddresses = "wan_addresses"
	lanServices  = "lan_services"
	flowtable    = "ft"
)

var (
	accept = rs.Verdict{Kind: rs.Accept}
	drop   = rs.Verdict{Kind: rs.Drop}
)

func jump(chain string) rs.Verdict { return rs.Verdict{Kind: rs.Goto, Chain: chain} }

// Ruleset gives the table. A forward that cannot be carried out is left out
// and reported.
func Ruleset(in Input) (*rs.Table, []settings.Problem) {
	pass := passthrough.Rules(in.Settings, network(in))
	forwards, problems := forwardMaps(in)
	t := &rs.Table{
		IP:      pass.IP,
		Helpers: pass.Helpers,
		Sets:    append(append(pass.Sets, lanServiceSet(in), wanAddressSet(in)), append(forwards, shareSets(in)...)...),
		Chains:  slices.Concat(input(in), forward(in, pass), pass.Chains, nat(in, pass.Masqueraded, len(forwards) > 1)),
	}
	if in.Settings.Firewall.Offload {
		devices := []string{in.LANDevice, in.WANDevice}
		slices.Sort(devices)
		t.Flowtables = []rs.Flowtable{{Name: flowtable, Devices: devices, Counter: true}}
	}
	return t, problems
}

// network is where tunnels run.
func network(in Input) passthrough.Network {
	n := passthrough.Network{LANDevice: in.LANDevice, WANDevice: in.WANDevice, LAN: in.LAN, RAM: in.RAM, Shared: in.Shared, Subnets: in.Subnets}
	if len(in.WAN) > 0 {
		n.WAN = in.WAN[0]
	}
	n.Server, n.Facts = ipsecServer(in), in.Facts
	return n
}

// input is what reaches the router itself.
func input(in Input) []rs.Chain {
	lan, s := in.LAN.Masked(), in.Settings
	fromLAN := rs.Chain{Name: "input_lan"}
	if s.LAN.DHCP.Enabled {
		// Before the source is checked: a device without an address uses 0.0.0.0.
		fromLAN.Rules = append(fromLAN.Rules,
			rs.R("lan dhcp", rs.Sport{Protocol: rs.UDP, Port: 68}, rs.Dport{Protocol: rs.UDP, Port: 67}, accept))
	}
	fromLAN.Rules = append(fromLAN.Rules,
		rs.R("anti-spoofing", rs.Source{Prefix: lan, Not: true}, drop),
		rs.R("services for the LAN", rs.IPv4{}, rs.In{Key: rs.ProtocolPort(), Set: lanServices}, accept),
		rs.R("ping from the LAN", rs.Echo{}, rs.Limit{Rate: 100, Burst: 50}, accept),
		rs.R("ping from the LAN, too fast", rs.Echo{}, drop),
		rs.R("anything else from the LAN", rs.L4{Protocol: rs.TCP}, rs.TCPReset),
		rs.R("anything else from the LAN", rs.IPv4{}, rs.AdminProhibited),
	)
	fromWAN := rs.Chain{Name: "input_wan", Rules: []rs.Rule{
		rs.R("anti-spoofing", rs.Source{Prefix: lan}, drop),
	}}
	if s.Firewall.WANPing {
		fromWAN.Rules = append(fromWAN.Rules, rs.R("firewall wan-ping on", rs.Echo{}, rs.Limit{Rate: 20, Burst: 20}, accept))
	}
	if s.SSH.WAN && in.Claimed {
		fromWAN.Rules = append(fromWAN.Rules,
			rs.R("ssh wan on", rs.IPv4{}, rs.Dport{Protocol: rs.TCP, Port: s.SSH.Port}, accept))
	}
	return []rs.Chain{
		{Name: "input", Type: "filter", Hook: rs.Input, Drop: true, Rules: []rs.Rule{
			rs.R("established", rs.Established|rs.Related, accept),
			rs.R("the router itself", rs.Iif{Name: "lo"}, accept),
			rs.R("invalid", rs.Invalid, drop),
			rs.R("from the LAN", rs.Iif{Name: in.LANDevice}, jump("input_lan")),
			rs.R("from the WAN", rs.Iif{Name: in.WANDevice}, jump("input_wan")),
		}},
		fromLAN, fromWAN,
	}
}

// forward is what crosses the router. IPv6 does not: nothing accepts it.
func forward(in Input, pass passthrough.Part) []rs.Chain {
	lan := in.LAN.Masked()
	c := rs.Chain{Name: "forward", Type: "filter", Hook: rs.Forward, Drop: true}
	c.Rules = append(c.Rules, pass.Refuse...)
	c.Rules = append(c.Rules,
		// Both directions of a handshake, so before established is accepted.
		rs.R("path MTU", rs.SYN{}, rs.ClampMSS{}))
	var carried []rs.Chain
	if in.Settings.Firewall.Offload {
		c.Rules = append(c.Rules, rs.R("established", rs.Established|rs.Related, jump("carried")))
		carried = []rs.Chain{{Name: "carried", Rules: append(slices.Clone(pass.Carried),
			rs.R("firewall offload on", rs.L4{Protocol: rs.TCP}, rs.Offload{Flowtable: flowtable}),
			rs.R("firewall offload on", rs.L4{Protocol: rs.UDP}, rs.Offload{Flowtable: flowtable}),
			// What cannot be offloaded (a helper, GRE, ESP) comes here too.
			rs.R("established", accept),
		)}}
	} else {
		c.Rules = append(c.Rules, rs.R("established", rs.Established|rs.Related, accept))
	}
	c.Rules = append(append(c.Rules, pass.Untracked...),
		rs.R("invalid", rs.Invalid, drop),
		rs.R("from the LAN", rs.Iif{Name: in.LANDevice}, jump("forward_lan")),
		rs.R("from the WAN", rs.Iif{Name: in.WANDevice}, jump("forward_wan")),
	)
	fromLAN := rs.Chain{Name: "forward_lan", Rules: append(
		[]rs.Rule{rs.R("anti-spoofing", rs.Source{Prefix: lan, Not: true}, drop)}, append(pass.FromLAN,
			rs.R("LAN to Internet", rs.IPv4{}, rs.Oif{Name: in.WANDevice}, accept),
			rs.R("port forwards, from inside", rs.Oif{Name: in.LANDevice}, rs.DNATed{}, accept),
		)...)}
	fromWAN := rs.Chain{Name: "forward_wan", Rules: append(
		[]rs.Rule{rs.R("anti-spoofing", rs.Source{Prefix: lan}, drop)}, append(pass.FromWAN,
			rs.R("port forwards", rs.Oif{Name: in.LANDevice}, rs.DNATed{}, accept),
		)...)}
	return append(append([]rs.Chain{c}, carried...), fromLAN, fromWAN)
}

// nat translates addresses. These chains see only the first packet of a flow.
// portless tells that protocols without ports are forwarded too.
func nat(in Input, masqueraded []rs.Rule, portless bool) []rs.Chain {
	lan := in.LAN.Masked()
	// By the WAN's address, not by the interface: so a forward works
	// from inside too, and the router's LAN address keeps its own ports.
	toWAN := rs.In{Key: rs.Fields{rs.FieldDest}, Set: wanAddresses}
	first, counted := shareRules(in)
	dstnat := []rs.Rule{first}
	if portless {
		dstnat = append(dstnat, rs.R("firewall vpn-server ipsec", rs.L4{Protocol: rs.ESP}, toWAN, rs.DNAT{Key: rs.Fields{rs.FieldProtocol}, Map: protocolsMap}))
	}
	return []rs.Chain{
		counted,
		{Name: "dstnat", Type: "nat", Hook: rs.Prerouting, Priority: -100, Rules: append(dstnat,
			rs.R("port forwards", toWAN, rs.DNAT{Key: rs.ProtocolPort(), Map: forwardsMap}),
		)},
		{Name: "srcnat", Type: "nat", Hook: rs.Postrouting, Priority: 100, Rules: append(masqueraded,
			rs.R("LAN to Internet", rs.IPv4{}, rs.Oif{Name: in.WANDevice}, rs.Masquerade{}),
			// Else the device would answer its neighbour directly.
			rs.R("port forwards, from inside", rs.Source{Prefix: lan}, rs.Oif{Name: in.LANDevice}, rs.DNATed{}, rs.Masquerade{}),
		)},
	}
}

// lanServiceSet is what the router serves on the LAN.
func lanServiceSet(in Input) rs.Set {
	e := func(p uint8, port int, why string) rs.Element {
		return rs.Element{Key: rs.Cat(rs.Protocol(p), rs.PortNumber(port)), Why: why}
	}
	s := rs.Set{Name: lanServices, Key: []rs.Type{rs.InetProto, rs.InetService}, Elements: []rs.Element{
		e(rs.TCP, in.Settings.SSH.Port, "ssh port"), e(rs.TCP, 53, "dns"), e(rs.UDP, 53, "dns"),
	}}
	s.Sort()
	return s
}

func wanAddressSet(in Input) rs.Set {
	s := rs.Set{Name: wanAddresses, Key: []rs.Type{rs.IPv4Addr}}
	for _, a := range in.WAN {
		if a.Unmap().Is4() {
			s.Elements = append(s.Elements, rs.Element{Key: rs.Addr(a), Why: "wan mode " + in.Settings.WAN.Mode})
		}
	}
	s.Sort()
	return s
}
