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
// standing problem: the rest of the firewall must not wait for it.
func (d *Desired) rules(b Board, s *settings.Settings, f facts.Facts) {
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
	table, problems := firewall.Ruleset(in)
	d.Rules = table
	for _, p := range problems {
		d.Problems = append(d.Problems, p.Error()+".")
	}
}
