package reconcile

import (
	"fmt"
	"slices"

	"github.com/culvert-fw/culvert/firmware/netstate"
)

// differ collects the steps of one Diff by phase.
type differ struct {
	want, have netstate.State
	made       map[string]bool // bridges that the steps make
	missing    map[string]bool // links that can't be had
	steps      []Step
	plan       *Plan
}

func (d *differ) add(phase Phase, why string, do netstate.Change, undo *netstate.Change) {
	s := Step{Phase: phase, Why: why, Do: Action{Net: &do}}
	if undo != nil {
		s.Undo = &Action{Net: undo}
	}
	d.steps = append(d.steps, s)
}

// diffNet appends the steps of phases 2 to 7 that lead from have to want.
func diffNet(p *Plan, want, have netstate.State) {
	d := &differ{want: want, have: have, made: map[string]bool{}, missing: map[string]bool{}, plan: p}
	d.sysctls(PhaseSysctl, false)
	d.links()
	d.sysctls(PhaseLinks, true)
	d.addrs()
	d.rules()
	d.routes()
	p.Steps = append(p.Steps, d.steps...)
}

// sysctls writes the keys that belong to a link, or those that don't.
func (d *differ) sysctls(phase Phase, ofLinks bool) {
	for _, w := range d.want.Sysctls {
		if (w.Link != "") != ofLinks || d.missing[w.Link] {
			continue
		}
		old, ok := d.have.Sysctl(w.Key)
		switch {
		case ok && old == w.Value:
		case ok:
			undo := w
			undo.Value = old
			d.add(phase, w.Why, netstate.Change{Op: netstate.SetSysctl, Sysctl: w},
				&netstate.Change{Op: netstate.SetSysctl, Sysctl: undo})
		case d.made[w.Link] || !w.Optional:
			// A new link's key has a value that nobody read: deleting the link undoes it.
			d.add(phase, w.Why, netstate.Change{Op: netstate.SetSysctl, Sysctl: w}, nil)
		}
	}
}

func (d *differ) links() {
	links := slices.Clone(d.want.Links)
	// Bridges first, so that a port finds its master.
	slices.SortStableFunc(links, func(a, b netstate.Link) int { return rank(a) - rank(b) })
	for _, w := range links {
		h, ok := d.have.Link(w.Name)
		switch {
		case !ok && w.Kind == netstate.Physical:
			d.missing[w.Name] = true
			d.plan.Missing = append(d.plan.Missing, "interface "+w.Name+" does not exist")
			continue
		case !ok:
			d.made[w.Name] = true
			h = netstate.Link{Name: w.Name, Kind: w.Kind}
			d.add(PhaseLinks, w.Why, netstate.Change{Op: netstate.AddLink, Link: h},
				&netstate.Change{Op: netstate.DeleteLink, Link: h})
		case h.Kind != w.Kind:
			d.missing[w.Name] = true
			d.plan.Missing = append(d.plan.Missing, fmt.Sprintf("interface %s is not of kind %s", w.Name, w.Kind))
			continue
		}
		d.link(w, h)
	}
}

func rank(l netstate.Link) int {
	if l.Kind == netstate.Bridge {
		return 0
	}
	return 1
}

// link changes the link h into w.
func (d *differ) link(w, h netstate.Link) {
	set := func(op netstate.Op, differs, undo bool) {
		if !differs {
			return
		}
		var u *netstate.Change
		if undo {
			u = &netstate.Change{Op: op, Link: h}
		}
		d.add(PhaseLinks, w.Why, netstate.Change{Op: op, Link: w}, u)
	}
	made := d.made[w.Name]
	set(netstate.SetMAC, w.MAC != "" && w.MAC != h.MAC, !made)
	set(netstate.SetMTU, w.MTU != 0 && w.MTU != h.MTU, !made)
	set(netstate.SetMaster, w.Master != h.Master && !d.missing[w.Master], !made)
	set(netstate.SetUp, w.Up != h.Up, true)
}

// managed tells whether a link is one of ours.
func (d *differ) managed(name string) bool {
	_, ok := d.want.Link(name)
	return ok
}

func (d *differ) addrs() {
	for _, w := range d.want.Addrs {
		if !d.missing[w.Link] && !slices.ContainsFunc(d.have.Addrs, w.Same) {
			d.add(PhaseAddrs, w.Why, netstate.Change{Op: netstate.AddAddr, Addr: w},
				&netstate.Change{Op: netstate.DeleteAddr, Addr: w})
		}
	}
}

// rules are all ours: see netstate.Rule.
func (d *differ) rules() {
	for _, w := range d.want.Rules {
		if !slices.ContainsFunc(d.have.Rules, w.Same) {
			d.add(PhaseRoutes, w.Why, netstate.Change{Op: netstate.AddRule, Rule: w},
				&netstate.Change{Op: netstate.DeleteRule, Rule: w})
		}
	}
	for _, h := range d.have.Rules {
		if !slices.ContainsFunc(d.want.Rules, h.Same) {
			d.add(PhaseDelete, notWanted, netstate.Change{Op: netstate.DeleteRule, Rule: h},
				&netstate.Change{Op: netstate.AddRule, Rule: h})
		}
	}
}

// routes adds what is missing, then deletes routes and last addresses: a route
// that goes with its address could not be put back by Undo.
func (d *differ) routes() {
	for _, w := range d.want.Routes {
		if !d.missing[w.Dev] && !slices.ContainsFunc(d.have.Routes, w.Same) {
			d.add(PhaseRoutes, w.Why, netstate.Change{Op: netstate.AddRoute, Route: w},
				&netstate.Change{Op: netstate.DeleteRoute, Route: w})
		}
	}
	for _, h := range d.have.Routes {
		switch {
		case slices.ContainsFunc(d.want.Routes, h.Same):
		case h.Protocol == netstate.RouteProtocol:
			d.add(PhaseDelete, notWanted, netstate.Change{Op: netstate.DeleteRoute, Route: h},
				&netstate.Change{Op: netstate.AddRoute, Route: h})
		default:
			d.plan.Foreign = append(d.plan.Foreign, h.Text())
		}
	}
	for _, h := range d.have.Addrs {
		if d.managed(h.Link) && !slices.ContainsFunc(d.want.Addrs, h.Same) {
			d.add(PhaseDelete, notWanted, netstate.Change{Op: netstate.DeleteAddr, Addr: h},
				&netstate.Change{Op: netstate.AddAddr, Addr: h})
		}
	}
}

const notWanted = "no setting asks for it"
