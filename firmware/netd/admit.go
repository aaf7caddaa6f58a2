package netd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

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
	byServer := map[netip.Addr][]netip.Addr{}
	for _, p := range t.inOrder(waiting) {
		byServer[p.server] = append(byServer[p.server], p.device)
	}
	var in []ruleset.Element
	further, alone := uint64(0), map[netip.Addr]netip.Addr{}
	for server, come := range byServer {
		if ds := devices[server]; len(ds) == 1 && !t.shared(server) {
			alone[server] = ds[0]
		}
		let, fresh := t.join(server, come, devices[server])
		further += uint64(fresh)
		for _, device := range come {
			if !slices.Contains(let, device) {
				t.refused.Add(uint64(waiting[pair{server, device}]))
				continue
			}
			in = append(in, ruleset.Element{Key: ruleset.Cat(ruleset.Addr(server), ruleset.Addr(device))})
		}
	}
	if further > 0 {
		t.d.applyMu.Lock()
		err := t.d.converge(ctx)
		t.d.applyMu.Unlock()
		if err != nil {
			return err
		}
		if err := t.bindings.shared(alone); err != nil {
			return err
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

// join adds devices to those that share a server, beside others that have an
// association with it, as far as there is room. It returns who shares it now,
// and how many of them are new.
func (t *tunnels) join(server netip.Addr, come, others []netip.Addr) (all []netip.Addr, fresh int) {
	all = slices.Clone(others)
	t.d.mu.Lock()
	i := slices.IndexFunc(t.d.facts.Shared, func(a facts.Association) bool { return a.Server == server })
	if i >= 0 {
		all = append(all, t.d.facts.Shared[i].Devices...)
	}
	t.d.mu.Unlock()
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	left := 0
	for _, device := range come {
		switch {
		case slices.Contains(all, device):
		case len(all) < mostShared:
			all, fresh = append(all, device), fresh+1
		default:
			left++
		}
	}
	if left > 0 {
		t.d.log.Warn("too many devices of one IPsec server", "server", server, "left out", left, "most", mostShared)
	}
	if fresh > 0 {
		// They count as there until their packets tell: the rules take a while on
		// a busy board.
		t.mu.Lock()
		for _, device := range all {
			t.last[pair{server, device}] = time.Now()
		}
		t.mu.Unlock()
		slices.SortFunc(all, netip.Addr.Compare)
		t.d.log.Info("several devices talk to one IPsec server", "server", server, "devices", all)
		t.share(facts.Association{Server: server, Devices: all})
	}
	return all, fresh
}
