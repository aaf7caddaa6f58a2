package netd

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// inOrder are those who wait, devices of passthrough priority first: they get
// what room there is.
func (t *tunnels) inOrder(waiting map[pair]int) []pair {
	first := plan.Priority(t.d.desired().Settings, t.d.known())
	rank := func(p pair) int {
		if i := slices.Index(first, p.device); i >= 0 {
			return i
		}
		return len(first)
	}
	list := make([]pair, 0, len(waiting))
	for p := range waiting {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b pair) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.device.Compare(b.device), a.server.Compare(b.server))
	})
	return list
}

// keep forgets what was learned of native IPsec of other devices than the
// keeper: where a server is one device's, theirs goes through conntrack from now
// on, and the servers that they came to first are the keeper's.
func (t *tunnels) keep(keeper netip.Addr) error {
	if keeper == t.keeper || !keeper.IsValid() {
		t.keeper = keeper
		return nil
	}
	first, err := t.firsts()
	if err != nil {
		return err
	}
	firstOf := func(e nft.Learned) netip.Addr { return first[address(e.Key)] }
	for name, owner := range map[string]func(nft.Learned) netip.Addr{
		plan.Servers: firstOf, plan.First: firstOf, plan.Assocs: owners[plan.Assocs], plan.Sends: owners[plan.Sends], plan.Fresh: owners[plan.Fresh],
		plan.Cookies: owners[plan.Cookies], plan.Outbound: owners[plan.Outbound],
	} {
		list, err := t.learned(name)
		if err != nil {
			return err
		}
		var gone []ruleset.Element
		for _, e := range list {
			if owner(e) != keeper {
				gone = append(gone, ruleset.Element{Key: e.Key, Data: e.Data})
			}
		}
		if err := t.rules.Unlearn(plan.LearnedSet(name), gone...); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	t.keeper = keeper
	return nil
}
