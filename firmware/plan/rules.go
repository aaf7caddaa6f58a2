package plan

import (
	"net/netip"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// rules fills in the ruleset, and the routing rules that complete it. A port forward that can't be carried out is a
// standing problem: the rest of the firewall must not wait for it. What before has already is shared.
func (d *Desired) rules(b Board, s *settings.Settings, f facts.Facts, before *Desired) {
	in := firewall.Input{LANDevice: Bridge, WANDevice: b.WANPort, LAN: d.LAN.Address, Claimed: d.Claimed, Settings: s,
		RAM: b.RAM, Shared: f.Shared, Subnets: d.Subnets, Facts: f}
	if d.WAN.Address.IsValid() {
		in.WAN = []netip.Addr{d.WAN.Address.Addr()}
	}
	for protocol, why := range passthrough.Unanswered(s.Passthrough) {
		for _, dev := range []string{Bridge, b.WANPort} {
			d.Net.Rules = append(d.Net.Rules, netstate.Rule{Iif: dev, Protocol: protocol, Why: why})
		}
	}
	var problems []settings.Problem
	all, butForwards := false, false
	if before != nil && before.Rules != nil {
		all, butForwards = firewall.Same(in, before.input)
	}
	switch {
	case all:
		d.Rules, problems = before.Rules, before.problems
	case butForwards:
		d.Rules, problems = firewall.WithForwards(before.Rules, in)
	default:
		d.Rules, problems = firewall.Ruleset(in)
	}
	d.input, d.problems = in, problems
	for _, p := range problems {
		d.Problems = append(d.Problems, p.Error()+".")
	}
}
