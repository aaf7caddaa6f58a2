package netd

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/firmware/dhcp4d"
	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/reconcile"
)

// learn changes the facts and asks for a new plan.
func (d *daemon) learn(change func(*facts.Facts)) {
	d.mu.Lock()
	change(&d.facts)
	d.mu.Unlock()
	d.replan()
}

// replan wakes planLoop; many calls may become one plan.
func (d *daemon) replan() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// known is a copy of the facts.
func (d *daemon) known() facts.Facts {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.facts
	f.Links = maps.Clone(f.Links)
	f.Leases = slices.Clone(f.Leases)
	return f
}

// observed takes the links from every observation of the kernel.
func (d *daemon) observed(t reconcile.Target) {
	links := map[string]facts.Link{}
	for _, l := range t.Net.Links {
		links[l.Name] = facts.Link{Index: l.Index, Up: l.Up, Carrier: l.Carrier, MAC: l.MAC, MTU: l.MTU}
	}
	d.mu.Lock()
	d.have = t.Net
	same := maps.Equal(links, d.facts.Links)
	d.facts.Links = links
	d.mu.Unlock()
	if !same {
		d.replan()
	}
}

// lanLeases takes the LAN's leases whenever they change.
func (d *daemon) lanLeases(leases []dhcp4d.Lease) {
	d.learn(func(f *facts.Facts) { f.Leases = leased(leases) })
}

// takeLeases takes those of before the restart until the DHCP server tells of
// them: the first plan must not refuse devices that are known by their MAC.
func (d *daemon) takeLeases() error {
	leases, err := leaseStore{d.leases}.Load()
	now := time.Now()
	leases = slices.DeleteFunc(leases, func(l dhcp4d.Lease) bool { return l.Expires.Before(now) })
	slices.SortFunc(leases, func(a, b dhcp4d.Lease) int { return a.Addr.Compare(b.Addr) })
	d.facts.Leases = leased(leases)
	return err
}

func leased(leases []dhcp4d.Lease) (out []facts.Lease) {
	for _, l := range leases {
		out = append(out, facts.Lease{MAC: l.MAC, Addr: l.Addr, Name: l.Hostname, Expires: l.Expires, Static: l.Static})
	}
	return out
}

// planLoop plans anew whenever something was learnt.
func (d *daemon) planLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
		d.applyMu.Lock()
		err := d.converge(ctx)
		d.applyMu.Unlock()
		if err != nil && ctx.Err() == nil {
			d.log.Error("apply what was learnt", "err", err)
		}
	}
}

// converge brings the kernel and the services to what the settings in effect
// and the facts ask for. The caller holds applyMu.
func (d *daemon) converge(ctx context.Context) error {
	want, problems := d.plan(d.effective())
	if len(problems) > 0 {
		return problems
	}
	d.remember(want)
	was := d.desired()
	_, err := d.rec.Set(ctx, reconcile.Target{Net: want.Net, Rules: want.Rules})
	if err == nil && was != nil {
		// What the flowtable carries to where a name does not lead any more.
		err = d.endConnections(passthrough.Outdated(want.Settings, was.Facts, want.Facts))
	}
	d.serve(ctx, want)
	return err
}

// remember keeps that the LAN moved by itself: it stays where it went.
func (d *daemon) remember(want *plan.Desired) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !want.LAN.Moved || d.facts.LANMoved == want.LAN.Address {
		return
	}
	d.facts.LANMoved = want.LAN.Address
	d.moved()
	if err := d.state.Put(keyLANMoved, []byte(want.LAN.Address.String())); err != nil {
		d.log.Warn("the LAN's new address is not kept over a reboot", "err", err)
	}
}

// carrierOff is how long the LAN's ports stay down after a move: long enough
// for devices that wait whether a lost link comes back.
const carrierOff = 5 * time.Second

// moved takes the LAN ports' carrier away for a moment. Devices have leases of
// hours, whose server and gateway are gone: they would ask again when the lease
// is nearly over, but do at once when their link returns (RFC 4436), and are
// refused the old address. The caller holds d.mu.
func (d *daemon) moved() {
	d.log.Warn("the LAN moved off the WAN's subnet; its ports go down for a moment so that devices notice", "to", d.facts.LANMoved)
	d.portsDown = true
	d.replan()
	time.AfterFunc(carrierOff, func() {
		d.mu.Lock()
		d.portsDown = false
		d.mu.Unlock()
		d.replan()
	})
}

// linkOf returns what was last seen of an interface.
func (d *daemon) linkOf(name string) facts.Link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.facts.Links[name]
}

// addresses are those that the kernel has on an interface.
func addresses(s netstate.State, link string) []netstate.Addr {
	return slices.DeleteFunc(slices.Clone(s.Addrs), func(a netstate.Addr) bool { return a.Link != link })
}
