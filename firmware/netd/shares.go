package netd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// owners tell of the sets that one device or one server could fill whose an
// element is.
var owners = map[string]func(nft.Learned) netip.Addr{
	plan.Cookies:  func(e nft.Learned) netip.Addr { return address(e.Data) },
	plan.Outbound: func(e nft.Learned) netip.Addr { return address(e.Data) },
	plan.Assocs:   func(e nft.Learned) netip.Addr { return address(e.Key[4:]) },
	plan.Sends:    func(e nft.Learned) netip.Addr { return address(e.Key[8:]) },
	plan.Fresh:    func(e nft.Learned) netip.Addr { return address(e.Key[8:]) },
	plan.Inbound:  func(e nft.Learned) netip.Addr { return address(e.Key) },
}

// watchShares looks for devices and servers that fill the sets of table ip,
// until ctx is done.
func (t *tunnels) watchShares(ctx context.Context) {
	tick := time.NewTicker(plan.ShareCheck)
	defer tick.Stop()
	for {
		if err := t.checkShares(); err != nil {
			t.d.log.Error("shares of what is learned of IPsec", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// checkShares ends the learning from who has more than a share of a set, until
// it has less.
func (t *tunnels) checkShares() error {
	rules := t.d.desired().Rules
	if rules == nil || rules.IP == nil {
		return nil
	}
	var crowd []netip.Addr
	for name, owner := range owners {
		set := rules.IP.Set(name)
		if set == nil { // native IPsec does not pass
			return nil
		}
		have := map[netip.Addr]int{}
		err := t.rules.EachLearned(plan.LearnedSet(name), func(e nft.Learned) { have[owner(e)]++ })
		if errors.Is(err, unix.ENOENT) {
			return nil // the switch was turned off meanwhile
		}
		if err != nil {
			return err
		}
		for a, n := range have {
			if n > plan.Share(set.Size) && !slices.Contains(crowd, a) {
				crowd = append(crowd, a)
			}
		}
	}
	elements := make([]ruleset.Element, len(crowd))
	for i, a := range crowd {
		elements[i].Key = ruleset.Addr(a)
	}
	err := t.rules.Learn(plan.LearnedSet(plan.Crowding), elements...)
	if errors.Is(err, unix.ENOENT) {
		return nil // the switch was turned off meanwhile
	}
	return err
}

// limited tells who has reached a limit: whose packets were dropped, within the
// last hour, and who has more than a share now.
func (t *tunnels) limited() (dropped []api.Dropped, crowding []netip.Addr, err error) {
	list, err := t.learned(plan.Excess)
	if err != nil {
		return nil, nil, err
	}
	names := t.d.names()
	for _, e := range list {
		a := address(e.Key)
		dropped = append(dropped, api.Dropped{Device: a, Name: names[a], Packets: e.Packets})
	}
	slices.SortFunc(dropped, func(a, b api.Dropped) int { return a.Device.Compare(b.Device) })
	if list, err = t.learned(plan.Crowding); err != nil {
		return nil, nil, err
	}
	for _, e := range list {
		crowding = append(crowding, address(e.Key))
	}
	slices.SortFunc(crowding, netip.Addr.Compare)
	return dropped, crowding, nil
}

// problems are sentences about who has more than a share.
func (t *tunnels) problems() (out []string) {
	_, crowding, err := t.limited()
	if err != nil {
		return []string{sentence(err.Error())}
	}
	names := t.d.names()
	for _, a := range crowding {
		what := "no new SPI, IKE SA or server of it passes"
		if !t.d.desired().LAN.Address.Contains(a) {
			what = "its new SPIs go to each device that talks to it"
		}
		out = append(out, fmt.Sprintf("%s has more than a quarter of what the router can learn of IPsec; %s until it has less. See: show passthrough counters",
			called(names, a), what))
	}
	return out
}
