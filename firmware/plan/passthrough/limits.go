package passthrough

import (
	"net/netip"
	"slices"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Names in the table, for protocols that are not for every device or server.
const (
	limitedProtocols = "limited_protocols" // protocol : jump to its checks
	limitedPorts     = "limited_ports"     // protocol . port : the same
)

// limit is whom a protocol that is on is for: tunnels between these devices of
// the LAN and these servers.
type limit struct {
	name             string
	traffic          []port
	devices, servers ends
	// atServers tells that the protocol is looked for at its servers alone, so
	// that they are those it is refused to. When it is off, that is to every
	// device, and served, the LAN's own server, is refused to callers.
	atServers, off bool
	served         netip.Addr
}

// may tells whether a tunnel between these ends is right.
func (l limit) may(device, server netip.Addr) bool {
	if l.atServers {
		return !l.servers.has(server) || !l.off && l.devices.has(device)
	}
	return l.devices.has(device) && l.servers.has(server)
}

// limits has one for each protocol that is on, and for SSTP when it is looked
// for, in the order of the schema.
func limits(s *settings.Settings, f facts.Facts) (out []limit) {
	for _, p := range s.Passthrough.Protocols() {
		atServers := p.Name == "sstp"
		if !p.Enabled && !atServers || atServers && (len(p.Servers) == 0 || p.Enabled && len(p.Devices) == 0) {
			continue
		}
		list := func(what string) ends {
			return ends{set: p.Name + "_" + what, why: "passthrough " + p.Name + " " + what}
		}
		l := limit{name: p.Name, traffic: traffic(p), atServers: atServers, off: !p.Enabled,
			devices: deviceEnds(s, f, list("devices"), p.Devices), servers: serverEnds(s, f, list("servers"), p.Servers)}
		if l.off {
			l.devices = ends{why: "passthrough sstp off"}
			l.served, _ = s.Device(s.Firewall.VPNServers.SSTP.To)
		}
		out = append(out, l)
	}
	return out
}

// SSTP is where it is looked for: at these servers, and at the LAN's own.
func SSTP(s *settings.Settings, f facts.Facts) (servers []netip.Prefix, served netip.Addr) {
	served, _ = s.Device(s.Firewall.VPNServers.SSTP.To)
	return serverEnds(s, f, ends{}, s.Passthrough.SSTP.Servers).prefixes, served
}

func (l limit) limited() bool { return l.devices.limited || l.servers.limited }

func (l limit) sets() []rs.Set { return append(l.devices.sets(), l.servers.sets()...) }

func (l limit) chainName() string { return "limit_" + l.name }

// how refuses what is between wrong ends. OpenVPN over TCP may be known only
// once the connection is up, and an ICMP error would not end that.
func (l limit) how() rs.Expr {
	if l.name == "openvpn" {
		return to(refusedTunnel)
	}
	return rs.AdminProhibited
}

// way is a direction through the router, with what has the device's address
// there and the server's.
type way struct {
	match          []rs.Expr
	device, server rs.Field
}

func ways(n Network) (out, in way) {
	return way{[]rs.Expr{rs.Iif{Name: n.LANDevice}, rs.Oif{Name: n.WANDevice}}, rs.FieldSource, rs.FieldDest},
		way{[]rs.Expr{rs.Iif{Name: n.WANDevice}, rs.Oif{Name: n.LANDevice}}, rs.FieldDest, rs.FieldSource}
}

// chain refuses what is between other ends. What is right goes on to the rules
// for everything.
func (l limit) chain(n Network) rs.Chain {
	c := rs.Chain{Name: l.chainName()}
	out, in := ways(n)
	if l.atServers {
		c.Rules = l.atTheirs(out, in)
		return c
	}
	if l.devices.limited {
		c.Rules = append(c.Rules, l.devices.outward(out.match, out.device, l.how()))
		if l.name == "ipsec" {
			// What table ip delivers by what it learned before. It would be
			// quoted with the device's address: neither the server's to know,
			// nor of use to it.
			c.Rules = append(c.Rules, l.devices.inward(append([]rs.Expr{rs.Untracked}, in.match...), in.device, drop))
		}
		c.Rules = append(c.Rules, l.devices.inward(in.match, in.device, l.how()))
	}
	if l.servers.limited {
		c.Rules = append(c.Rules, l.servers.outward(out.match, out.server, l.how()), l.servers.inward(in.match, in.server, l.how()))
	}
	return c
}

// atTheirs are the rules of a protocol that is looked for at its servers.
func (l limit) atTheirs(out, in way) []rs.Rule {
	theirs := func(w way) []rs.Expr {
		return append(slices.Clone(w.match), rs.In{Key: rs.Fields{w.server}, Set: l.servers.set})
	}
	if !l.off {
		return []rs.Rule{l.devices.outward(theirs(out), out.device, l.how()), l.devices.inward(theirs(in), in.device, l.how())}
	}
	rules := []rs.Rule{rs.R(l.devices.why, append(theirs(out), l.how())...), rs.R(l.devices.why, append(theirs(in), l.how())...)}
	if l.served.Is4() {
		p := netip.PrefixFrom(l.served, 32)
		rules = append(rules, rs.R(l.devices.why, rs.DNATed{}, rs.Dest{Prefix: p}, l.how()), rs.R(l.devices.why, rs.DNATed{}, rs.Source{Prefix: p}, l.how()))
	}
	return rules
}

// others are rules that end, with how, what is between wrong ends, as far as
// addresses tell.
func (l limit) others(n Network, how rs.Expr) (rules []rs.Rule) {
	out, in := ways(n)
	if l.devices.limited {
		rules = append(rules, l.devices.inward(out.match, out.device, how), l.devices.inward(in.match, in.device, how))
	}
	if l.servers.limited {
		rules = append(rules, l.servers.inward(out.match, out.server, how), l.servers.inward(in.match, in.server, how))
	}
	return rules
}

// limitPart adds what refuses tunnels between wrong ends.
func limitPart(part *Part, all []limit, n Network) {
	protocols := rs.Set{Name: limitedProtocols, Key: []rs.Type{rs.InetProto}, Verdicts: true}
	ports := rs.Set{Name: limitedPorts, Key: []rs.Type{rs.InetProto, rs.InetService}, Verdicts: true}
	for _, l := range all {
		if !l.limited() {
			continue
		}
		part.Sets = append(append(part.Sets, l.sets()...), l.devices.addresses()...)
		part.Chains = append(append(part.Chains, l.chain(n)), l.devices.byMAC(l.how())...)
		check := rs.Verdict{Kind: rs.Jump, Chain: l.chainName()}
		for _, x := range l.traffic {
			if x.port == 0 {
				protocols.Elements = append(protocols.Elements, rs.Element{Key: rs.Protocol(x.protocol), Verdict: check})
			} else {
				ports.Elements = append(ports.Elements, rs.Element{Key: rs.Cat(rs.Protocol(x.protocol), rs.PortNumber(x.port)), Verdict: check})
			}
		}
	}
	if len(ports.Elements) == 0 {
		return
	}
	protocols.Sort()
	ports.Sort()
	part.Sets = append(part.Sets, protocols, ports)
	const why = "passthrough devices and servers"
	part.Refuse = append(part.Refuse,
		rs.R(why, rs.Vmap{Key: rs.Fields{rs.FieldProtocol}, Map: limitedProtocols}),
		rs.R(why, rs.Vmap{Key: rs.ProtocolPort(), Map: limitedPorts}),
		rs.R(why, rs.Vmap{Key: rs.Fields{rs.FieldProtocol, rs.FieldSport}, Map: limitedPorts}))
}

// pass leaves to conntrack, in table ip, what the forward chain will refuse:
// who is refused must be learned nowhere.
func (e ends) pass(f rs.Field) []rs.Rule {
	if !e.limited {
		return nil
	}
	return []rs.Rule{e.outward(nil, f, accept)}
}

// allowed leaves out of the associations the devices that have no right to
// copies any more.
func (e ends) allowed(all []facts.Association) []facts.Association {
	out := make([]facts.Association, len(all))
	for i, a := range all {
		out[i] = facts.Association{Server: a.Server}
		for _, d := range a.Devices {
			if e.has(d) {
				out[i].Devices = append(out[i].Devices, d)
			}
		}
	}
	return out
}
