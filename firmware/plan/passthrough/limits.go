package passthrough

import (
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
	devices, servers ends
}

// limits has one for each protocol that is on, in the order of toggles.
func limits(s *settings.Settings, f facts.Facts) (out []limit) {
	for _, p := range s.Passthrough.Protocols() {
		if !p.Enabled {
			continue
		}
		list := func(what string) ends {
			return ends{set: p.Name + "_" + what, why: "passthrough " + p.Name + " " + what}
		}
		out = append(out, limit{p.Name, deviceEnds(s, f, list("devices"), p.Devices), serverEnds(s, f, list("servers"), p.Servers)})
	}
	return out
}

func (l limit) limited() bool { return l.devices.limited || l.servers.limited }

func (l limit) sets() []rs.Set { return append(l.devices.sets(), l.servers.sets()...) }

func (l limit) chainName() string { return "limit_" + l.name }

// chain refuses what is between other ends. What is right goes on to the rules
// for everything.
func (l limit) chain(n Network) rs.Chain {
	c := rs.Chain{Name: l.chainName()}
	out := []rs.Expr{rs.Iif{Name: n.LANDevice}, rs.Oif{Name: n.WANDevice}}
	in := []rs.Expr{rs.Iif{Name: n.WANDevice}, rs.Oif{Name: n.LANDevice}}
	for _, e := range []struct {
		ends
		out, in rs.Field
	}{{l.devices, rs.FieldSource, rs.FieldDest}, {l.servers, rs.FieldDest, rs.FieldSource}} {
		if !e.limited {
			continue
		}
		c.Rules = append(c.Rules, e.outward(out, e.out, rs.AdminProhibited))
		if l.name == "ipsec" && e.in == rs.FieldDest {
			// What table ip delivers by what it learned before. It would be
			// quoted with the device's address: neither the server's to know,
			// nor of use to it.
			c.Rules = append(c.Rules, e.inward(append([]rs.Expr{rs.Untracked}, in...), e.in, drop))
		}
		c.Rules = append(c.Rules, e.inward(in, e.in, rs.AdminProhibited))
	}
	return c
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
		part.Chains = append(append(part.Chains, l.chain(n)), l.devices.byMAC(rs.AdminProhibited)...)
		check := rs.Verdict{Kind: rs.Jump, Chain: l.chainName()}
		for _, x := range traffic(l.name) {
			if x.port == 0 {
				protocols.Elements = append(protocols.Elements, rs.Element{Key: rs.Protocol(x.protocol), Verdict: check})
			} else {
				ports.Elements = append(ports.Elements, rs.Element{Key: rs.Cat(rs.Protocol(x.protocol), rs.PortNumber(x.port)), Verdict: check})
			}
		}
	}
	if len(part.Chains) == 0 {
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

// narrowed lists the flows that end when new is for others than old: those
// that the flowtable may carry past the rules. That is UDP alone; TCP 1723 has
// a helper, so the rules see each packet of it, as of GRE and ESP.
func narrowed(was, is []limit) (out []Selector) {
	for _, l := range is {
		i := slices.IndexFunc(was, func(w limit) bool { return w.name == l.name })
		if i < 0 || l.devices.covers(was[i].devices) && l.servers.covers(was[i].servers) {
			continue
		}
		for _, x := range traffic(l.name) {
			if x.protocol == rs.UDP {
				out = append(out, Selector{Protocol: x.protocol, Port: x.port, Why: "passthrough " + l.name + " is for others", allowed: &l})
			}
		}
	}
	return out
}
