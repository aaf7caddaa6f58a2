// Package linear writes a router's policy as most firewalls write it: one rule
// an item, one after the other, without a set or a map. It is the peer that
// Culvert's ruleset is measured against.
//
// Its shape is that of OpenWrt's firewall, and its rules are written for this
// package: eight base chains on the way of a forwarded packet, most of them
// empty; a chain a zone behind a jump; interfaces by name; the state by a
// verdict map; three rules a port forward, of which two are for devices inside
// that use the outer address. It has no counters, which OpenWrt's rules have: a
// peer that does less is the harder one.
package linear

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Table is the name of the one table, of family inet, that every text here
// replaces: what was loaded before goes in the same transaction.
const Table = "linear"

// Rule refuses what the LAN sends to a port of a host in the Internet.
type Rule struct {
	Name     string
	Protocol string // "tcp" or "udp"
	Dest     netip.Addr
	Port     int
}

// Policy is the policy that firewall.Ruleset makes of the same input: services of
// the router, port forwards, NAT, the offload of established flows. rules come
// first in what the LAN may send.
//
// What it has no rules for is an error, so that nothing smaller is measured as
// the same: VPN servers, and passthrough that is not the default. Passthrough by
// default is PPTP's helper here, without the sharing of servers; sources that do
// not belong to the LAN are not looked for, and nobody has a share of the
// connection table.
func Policy(in firewall.Input, rules []Rule) (*Ruleset, error) {
	s, fresh := in.Settings, settings.Default()
	compared := s.Clone()
	compared.Passthrough = fresh.Passthrough
	compared.Firewall.VPNServers = fresh.Firewall.VPNServers
	if !compared.Equal(s) {
		return nil, fmt.Errorf("linear: VPN servers and changed passthrough are not rendered")
	}
	p := &policy{in: in, rules: rules, lan: in.LANDevice, wan: in.WANDevice, network: in.LAN.Masked()}
	r := &Ruleset{helper: true, chains: slices.Concat(p.prerouting(), p.forward(), p.postrouting(), p.router())}
	if s.Firewall.Offload {
		r.devices = []string{in.LANDevice, in.WANDevice}
	}
	return r, nil
}

// Floor is the least that a NAT router can do: one rule.
func Floor(wan string) *Ruleset {
	return &Ruleset{chains: []chain{base("srcnat", "nat", "postrouting", "srcnat", on(oif(wan), masquerade))}}
}

// Plain is no table at all: the kernel forwards, and tracks nothing on its behalf.
func Plain() *Ruleset { return &Ruleset{} }

type policy struct {
	in       firewall.Input
	rules    []Rule
	lan, wan string       // devices
	network  netip.Prefix // the LAN's
}

// base is a chain on a hook, which accepts what its rules leave.
func base(name, kind, hook, priority string, rules ...rule) chain {
	return chain{name: name, kind: kind, hook: hook, priority: priority, policy: "accept", rules: rules}
}

// dropping is a chain that drops what its rules leave.
func (c chain) dropping() chain {
	c.policy = "drop"
	return c
}

// prerouting has four of the eight base chains: raw, mangle, DNAT and helpers.
func (p *policy) prerouting() []chain {
	outside, inside := chain{name: "dstnat_wan"}, chain{name: "dstnat_lan"}
	for _, f := range p.forwards() {
		outside.rules = append(outside.rules, on(dport(f.protocol, f.port), dnat(f.device, f.toPort)).called(f.name))
		for _, a := range p.in.WAN {
			inside.rules = append(inside.rules, on(from(p.network), to(a), dport(f.protocol, f.port), dnat(f.device, f.toPort)).called(f.name+reflection))
		}
	}
	return []chain{
		base("raw_prerouting", "filter", "prerouting", "raw"),
		base("mangle_prerouting", "filter", "prerouting", "mangle"),
		base("dstnat", "nat", "prerouting", "dstnat", on(iif(p.lan), jump(inside.name)), on(iif(p.wan), jump(outside.name))),
		inside, outside,
		base("helpers", "filter", "prerouting", "filter", on(iif(p.lan), jump("helpers_lan")), on(iif(p.wan), dnated, jump("helpers_lan"))),
		{name: "helpers_lan", rules: []rule{on(dport("tcp", 1723), helper)}},
	}
}

// reflection marks a rule for devices inside that use the outer address.
const reflection = " (reflection)"

// forward has two: the segment size, and what may cross.
func (p *policy) forward() []chain {
	var crossing, fromLAN []rule
	if p.in.Settings.Firewall.Offload {
		crossing = append(crossing, on(l4("tcp"), known, offload), on(l4("udp"), known, offload))
	}
	for _, r := range p.rules {
		fromLAN = append(fromLAN, on(to(r.Dest), dport(r.Protocol, r.Port), jump("refuse")).called(r.Name))
	}
	crossing = append(crossing, on(carryAndDrop), on(iif(p.lan), jump("forward_lan")), on(iif(p.wan), jump("forward_wan")))
	fromLAN = append(fromLAN, on(jump("accept_to_wan")), on(oif(p.lan), dnated, accept), on(jump("refuse")))
	return []chain{
		base("mangle_forward", "filter", "forward", "mangle", on(iif(p.wan), clamp), on(oif(p.wan), clamp)),
		base("forward", "filter", "forward", "filter", crossing...).dropping(),
		{name: "forward_lan", rules: fromLAN},
		{name: "forward_wan", rules: []rule{on(oif(p.lan), dnated, accept)}},
		{name: "accept_to_wan", rules: []rule{on(ipv4, oif(p.wan), accept)}},
		{name: "refuse", rules: []rule{on(l4("tcp"), reset), on(prohibited)}},
	}
}

// postrouting has the last two.
func (p *policy) postrouting() []chain {
	inside := chain{name: "srcnat_lan"}
	for _, f := range p.forwards() {
		inside.rules = append(inside.rules, on(from(p.network), to(f.device), dport(f.protocol, f.toPort), snat(p.in.LAN.Addr())).called(f.name+reflection))
	}
	return []chain{
		base("mangle_postrouting", "filter", "postrouting", "mangle"),
		base("srcnat", "nat", "postrouting", "srcnat", on(oif(p.lan), jump(inside.name)), on(oif(p.wan), jump("srcnat_wan"))),
		inside,
		{name: "srcnat_wan", rules: []rule{on(ipv4, masquerade)}},
	}
}

// router is what reaches the router itself, and what it sends.
func (p *policy) router() []chain {
	s := p.in.Settings
	ssh := on(ipv4, dport("tcp", s.SSH.Port), accept)
	var fromWAN []rule
	if s.SSH.WAN && p.in.Claimed {
		fromWAN = append(fromWAN, ssh)
	}
	if s.Firewall.WANPing {
		fromWAN = append(fromWAN, on(ping, limit(20, 20), accept))
	}
	return []chain{
		base("input", "filter", "input", "filter", on(iif("lo"), accept), on(carryAndDrop), on(iif(p.lan), jump("input_lan")), on(iif(p.wan), jump("input_wan"))).dropping(),
		{name: "input_lan", rules: []rule{
			on(ports("udp", 68, 67), accept), on(ipv4, dport("tcp", 53), accept), on(ipv4, dport("udp", 53), accept), ssh,
			on(ping, limit(100, 50), accept), on(ping, drop), on(jump("refuse")),
		}},
		{name: "input_wan", rules: fromWAN},
		base("output", "filter", "output", "filter", on(carry)),
	}
}

// forwarded is a forward of one protocol.
type forwarded struct {
	name, protocol string
	port           int
	device         netip.Addr
	toPort         int
}

// forwards are those that are on, in the order of their names.
func (p *policy) forwards() []forwarded {
	var all []forwarded
	for name, f := range p.in.Settings.Firewall.Forwards {
		for _, protocol := range [...]string{settings.TCP, settings.UDP} {
			if f.Enabled && (f.Protocol == protocol || f.Protocol == settings.TCPUDP) {
				all = append(all, forwarded{name, protocol, f.Port, f.To, cmp.Or(f.ToPort, f.Port)})
			}
		}
	}
	slices.SortFunc(all, func(a, b forwarded) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.protocol, b.protocol))
	})
	return all
}
