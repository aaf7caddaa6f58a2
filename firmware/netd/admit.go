package netd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/facts"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// door is where further devices of IPsec servers wait. All that came while
// others were let in go in together: new rules take as long for many as for
// one.
type door struct {
	wake chan struct{}

	mu      sync.Mutex
	waiting map[pair]int // how many packets told of it
}

// doorMost is how many wait at once; who finds no room asks again.
const doorMost = 1024

func (o *door) knock(p pair) {
	o.mu.Lock()
	if o.waiting == nil {
		o.waiting = map[pair]int{}
	}
	if len(o.waiting) < doorMost || o.waiting[p] > 0 {
		o.waiting[p]++
	}
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *door) take() map[pair]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.waiting
	o.waiting = nil
	return w
}

// admitAll lets in who waits, until ctx is done.
func (t *tunnels) admitAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.door.wake:
		}
		if err := t.admit(ctx, t.door.take()); err != nil && ctx.Err() == nil {
			t.d.log.Error("devices of shared IPsec servers", "err", err)
		}
	}
}

// admit lets further devices of servers in: first the copies, then their
// packets.
func (t *tunnels) admit(ctx context.Context, waiting map[pair]int) error {
	if !t.d.desired().Settings.Passthrough.IPsec.Copy {
		return nil // turned off while they waited
	}
	devices, err := t.look()
	if err != nil {
		return err
	}
	var in []ruleset.Element
	further, alone := uint64(0), map[netip.Addr]netip.Addr{}
	for _, p := range t.inOrder(waiting) {
		if ds := devices[p.server]; len(ds) == 1 && !t.shared(p.server) {
			alone[p.server] = ds[0]
		}
		fresh, ok := t.join(p, devices[p.server])
		if !ok {
			t.refused.Add(uint64(waiting[p]))
			t.d.log.Warn("too many devices of one IPsec server", "server", p.server, "device", p.device, "most", mostShared)
			continue
		}
		if fresh {
			further++
		}
		in = append(in, ruleset.Element{Key: ruleset.Cat(ruleset.Addr(p.server), ruleset.Addr(p.device))})
	}
	if further > 0 {
		t.d.applyMu.Lock()
		err := t.d.converge(ctx)
		t.d.applyMu.Unlock()
		if err != nil {
			return err
		}
		for server, device := range alone {
			if err := t.bindings.shared(server, device); err != nil {
				return err
			}
		}
	}
	err = t.rules.Learn(plan.LearnedSet(plan.Assocs), in...)
	if errors.Is(err, unix.ENOENT) {
		return nil // the switch was turned off meanwhile
	}
	if err == nil {
		t.admitted.Add(further)
	}
	_, lookErr := t.look()
	return errors.Join(err, lookErr)
}

// shared tells whether a server's packets are copied.
func (t *tunnels) shared(server netip.Addr) bool {
	return slices.ContainsFunc(t.d.known().Shared, func(a facts.Association) bool { return a.Server == server })
}

// join adds a device to those that share its server, beside others that have
// an association with it. It tells whether the device is new there; false when
// there is no room.
func (t *tunnels) join(p pair, others []netip.Addr) (fresh, ok bool) {
	all := slices.Clone(others)
	t.d.mu.Lock()
	if i := slices.IndexFunc(t.d.facts.Shared, func(a facts.Association) bool { return a.Server == p.server }); i >= 0 {
		if slices.Contains(t.d.facts.Shared[i].Devices, p.device) {
			t.d.mu.Unlock()
			return false, true
		}
		all = append(all, t.d.facts.Shared[i].Devices...)
	}
	t.d.mu.Unlock()
	all = append(all, p.device)
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	if len(all) > mostShared {
		return false, false
	}
	t.d.log.Info("several devices talk to one IPsec server", "server", p.server, "device", p.device, "devices", len(all))
	t.share(facts.Association{Server: p.server, Devices: all})
	return true, true
}
