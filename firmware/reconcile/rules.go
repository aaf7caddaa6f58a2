package reconcile

import (
	"slices"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// diffRules appends the steps of the ruleset: first the rules, with the
// flowtable on those devices that exist already, and at the end, when links
// were made in between, the flowtable's devices. A device that does not exist
// would fail the whole transaction.
//
// was is what the observed table was written from, for Undo: a rule that was
// read back can be compared but not written again.
func diffRules(p *Plan, want, have Target, was *ruleset.Table) {
	if want.Rules == nil {
		return
	}
	first := onDevices(want.Rules, have.Net.Links)
	last := onDevices(want.Rules, have.Net.Links, want.Net.Links...)
	if lines := ruleset.Diff(first, have.Rules); len(lines) > 0 {
		s := Step{Phase: PhaseRules, Do: Action{From: have.Rules, To: first}, Why: "firewall", Lines: lines}
		if was != nil {
			s.Undo = &Action{From: first, To: onDevices(was, have.Net.Links)}
		}
		p.Steps = append(p.Steps, s)
	}
	if lines := ruleset.Diff(last, first); len(lines) > 0 {
		p.Steps = append(p.Steps, Step{Phase: PhaseDevices, Why: "firewall offload", Lines: lines,
			Do: Action{From: first, To: last}, Undo: &Action{From: last, To: first}})
	}
}

// onDevices is t with its flowtables on those of their devices that exist, or
// that will: a bridge of made, but no physical interface.
func onDevices(t *ruleset.Table, exist []netstate.Link, made ...netstate.Link) *ruleset.Table {
	for _, f := range t.Flowtables {
		kept := slices.DeleteFunc(slices.Clone(f.Devices), func(name string) bool {
			is := func(l netstate.Link) bool { return l.Name == name }
			return !slices.ContainsFunc(exist, is) &&
				!slices.ContainsFunc(made, func(l netstate.Link) bool { return is(l) && l.Kind == netstate.Bridge })
		})
		if len(kept) < len(f.Devices) {
			return t.WithFlowtableDevices(kept...)
		}
	}
	return t
}
