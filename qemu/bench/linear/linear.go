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

// Policy gives the text for `nft -f` of the policy that firewall.Ruleset makes of
// the same input: services of the router, port forwards, NAT, the offload of
// established flows. rules come first in what the LAN may send.
//
// What it has no rules for is an error, so that nothing smaller is measured as
// the same: VPN servers, and passthrough that is not the default. Passthrough by
// default is PPTP's helper here, without the sharing of servers; sources that do
// not belong to the LAN are not looked for.
func Policy(in firewall.Input, rules []Rule) (string, error) {
	s, fresh := in.Settings, settings.Default()
	compared := s.Clone()
	compared.Passthrough = fresh.Passthrough
	compared.Firewall.VPNServers = fresh.Firewall.VPNServers
	if !compared.Equal(s) {
		return "", fmt.Errorf("linear: VPN servers and changed passthrough are not rendered")
	}
	p := &policy{in: in, rules: rules}
	return replace(p.objects() + p.prerouting() + p.forward() + p.postrouting() + p.router()), nil
}

// Floor is the least that a NAT router can do: one rule.
func Floor(wan string) string {
	return replace("chain srcnat {\ntype nat hook postrouting priority srcnat; policy accept;\noifname \"" + wan + "\" masquerade\n}\n")
}

// Plain is no table at all: the kernel forwards and tracks nothing on its behalf.
func Plain() string { return remove }

// remove declares the table first, because what is not there cannot be deleted.
const remove = "table inet " + Table + "\ndelete table inet " + Table + "\n"

// replace makes the text of a table of its content, and indents it.
func replace(content string) string {
	var b strings.Builder
	b.WriteString(remove + "table inet " + Table + " {\n")
	depth := 1
	for line := range strings.Lines(content) {
		if strings.HasPrefix(line, "}") {
			depth--
		}
		b.WriteString(strings.Repeat("\t", depth) + line)
		if strings.HasSuffix(line, "{\n") {
			depth++
		}
	}
	return b.String() + "}\n"
}

type policy struct {
	in    firewall.Input
	rules []Rule
}

// chain is one that is jumped to; base is one on a hook.
func chain(name string, rules ...string) string {
	return "chain " + name + " {\n" + lines(rules) + "}\n"
}

func base(name, kind, hook, priority, policy string, rules ...string) string {
	head := fmt.Sprintf("type %s hook %s priority %s; policy %s;", kind, hook, priority, policy)
	return chain(name, append([]string{head}, rules...)...)
}

func lines(rules []string) string {
	if len(rules) == 0 {
		return ""
	}
	return strings.Join(rules, "\n") + "\n"
}

func (p *policy) from(zone string) string {
	if zone == "wan" {
		return fmt.Sprintf("iifname %q ", p.in.WANDevice)
	}
	return fmt.Sprintf("iifname %q ", p.in.LANDevice)
}

func (p *policy) to(zone string) string {
	return strings.Replace(p.from(zone), "iifname", "oifname", 1)
}

// offloads are the protocols whose established flows leave the rules.
func (p *policy) offloads() []string {
	if p.in.Settings.Firewall.Offload {
		return []string{"tcp", "udp"}
	}
	return nil
}

func (p *policy) objects() string {
	s := "ct helper pptp {\ntype \"pptp\" protocol tcp;\n}\n"
	if p.offloads() != nil {
		s += fmt.Sprintf("flowtable ft {\nhook ingress priority 0;\ndevices = { %q, %q };\n}\n", p.in.LANDevice, p.in.WANDevice)
	}
	return s
}

// prerouting has four of the eight base chains: raw, mangle, DNAT and helpers.
func (p *policy) prerouting() string {
	var outside, inside []string
	for _, f := range p.forwards() {
		outside = append(outside, fmt.Sprintf("%s dport %d dnat ip to %s:%d comment %q", f.protocol, f.port, f.To, f.toPort, f.name))
		for _, a := range p.in.WAN {
			inside = append(inside, fmt.Sprintf("ip saddr %s ip daddr %s %s dport %d dnat ip to %s:%d comment %q",
				p.in.LAN.Masked(), a, f.protocol, f.port, f.To, f.toPort, f.name+" (reflection)"))
		}
	}
	return base("raw_prerouting", "filter", "prerouting", "raw", "accept") +
		base("mangle_prerouting", "filter", "prerouting", "mangle", "accept") +
		base("dstnat", "nat", "prerouting", "dstnat", "accept", p.from("lan")+"jump dstnat_lan", p.from("wan")+"jump dstnat_wan") +
		chain("dstnat_lan", inside...) +
		chain("dstnat_wan", outside...) +
		base("helpers", "filter", "prerouting", "filter", "accept", p.from("lan")+"jump helpers_lan", p.from("wan")+"ct status dnat jump helpers_lan") +
		chain("helpers_lan", "tcp dport 1723 ct helper set \"pptp\"")
}

// forward has two: the segment size, and what may cross.
func (p *policy) forward() string {
	const clamp = "tcp flags syn / syn,rst tcp option maxseg size set rt mtu"
	var carried, refused []string
	for _, protocol := range p.offloads() {
		carried = append(carried, "meta l4proto "+protocol+" ct state established,related flow add @ft")
	}
	for _, r := range p.rules {
		refused = append(refused, fmt.Sprintf("ip daddr %s %s dport %d jump refuse comment %q", r.Dest, r.Protocol, r.Port, r.Name))
	}
	crossing := append(carried, states, p.from("lan")+"jump forward_lan", p.from("wan")+"jump forward_wan")
	return base("mangle_forward", "filter", "forward", "mangle", "accept", p.from("wan")+clamp, p.to("wan")+clamp) +
		base("forward", "filter", "forward", "filter", "drop", crossing...) +
		chain("forward_lan", append(refused, "jump accept_to_wan", p.to("lan")+"ct status dnat accept", "jump refuse")...) +
		chain("forward_wan", p.to("lan")+"ct status dnat accept") +
		chain("accept_to_wan", "meta nfproto ipv4 "+p.to("wan")+"accept") +
		chain("refuse", "meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited")
}

// states is what a connection that is known comes to.
const states = "ct state vmap { established : accept, related : accept, invalid : drop }"

// postrouting has the last two.
func (p *policy) postrouting() string {
	var inside []string
	for _, f := range p.forwards() {
		inside = append(inside, fmt.Sprintf("ip saddr %s ip daddr %s %s dport %d snat ip to %s comment %q",
			p.in.LAN.Masked(), f.To, f.protocol, f.toPort, p.in.LAN.Addr(), f.name+" (reflection)"))
	}
	return base("mangle_postrouting", "filter", "postrouting", "mangle", "accept") +
		base("srcnat", "nat", "postrouting", "srcnat", "accept", p.to("lan")+"jump srcnat_lan", p.to("wan")+"jump srcnat_wan") +
		chain("srcnat_lan", inside...) +
		chain("srcnat_wan", "meta nfproto ipv4 masquerade")
}

// router is what reaches the router itself, and what it sends.
func (p *policy) router() string {
	s := p.in.Settings
	fromLAN := []string{"udp sport 68 udp dport 67 accept", "meta nfproto ipv4 tcp dport 53 accept", "meta nfproto ipv4 udp dport 53 accept",
		fmt.Sprintf("meta nfproto ipv4 tcp dport %d accept", s.SSH.Port),
		"icmp type echo-request limit rate 100/second burst 50 packets accept", "icmp type echo-request drop", "jump refuse"}
	var fromWAN []string
	if s.SSH.WAN && p.in.Claimed {
		fromWAN = append(fromWAN, fmt.Sprintf("meta nfproto ipv4 tcp dport %d accept", s.SSH.Port))
	}
	if s.Firewall.WANPing {
		fromWAN = append(fromWAN, "icmp type echo-request limit rate 10/second accept")
	}
	return base("input", "filter", "input", "filter", "drop", "iifname \"lo\" accept", states, p.from("lan")+"jump input_lan", p.from("wan")+"jump input_wan") +
		chain("input_lan", fromLAN...) +
		chain("input_wan", fromWAN...) +
		base("output", "filter", "output", "filter", "accept", "ct state vmap { established : accept, related : accept }")
}

// forwarded is a forward of one protocol.
type forwarded struct {
	settings.Forward
	name, protocol string
	port, toPort   int
}

// forwards are those that are on, in the order of their names.
func (p *policy) forwards() []forwarded {
	var all []forwarded
	for name, f := range p.in.Settings.Firewall.Forwards {
		if !f.Enabled {
			continue
		}
		for _, protocol := range [...]string{settings.TCP, settings.UDP} {
			if f.Protocol == protocol || f.Protocol == settings.TCPUDP {
				one := forwarded{Forward: f, name: name, protocol: protocol, port: f.Port, toPort: f.ToPort}
				if one.toPort == 0 {
					one.toPort = f.Port
				}
				all = append(all, one)
			}
		}
	}
	slices.SortFunc(all, func(a, b forwarded) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.protocol, b.protocol)
	})
	return all
}
