package netd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
)

// holdersPoll is how often it is looked whether conntrack fills.
const holdersPoll = 2 * time.Second

// holder is a device with the connections that it began.
type holder struct {
	device       netip.Addr
	live, closed int // closed: TCP connections that conntrack remembers for a while
}

// over tells whether a TCP connection has ended. The kernel does not count it
// for the device's share any more.
func over(e *conntrack.Entry) bool {
	return e.Protocol == 6 && (e.TCPState == conntrack.TimeWait || e.TCPState == conntrack.Close)
}

// holders counts the LAN's connections by device, those with most first.
func (d *daemon) holders() ([]holder, error) {
	lan := d.desired().LAN.Address
	count := map[netip.Addr]*holder{}
	err := d.conntrack.Dump(func(e *conntrack.Entry) error {
		if !lan.Contains(e.Orig.Src) || e.Orig.Src == lan.Addr() {
			return nil
		}
		h := count[e.Orig.Src]
		if h == nil {
			h = &holder{device: e.Orig.Src}
			count[e.Orig.Src] = h
		}
		if over(e) {
			h.closed++
		} else {
			h.live++
		}
		return nil
	})
	var list []holder
	for _, h := range count {
		list = append(list, *h)
	}
	slices.SortFunc(list, func(a, b holder) int { return b.live + b.closed - a.live - a.closed })
	return list, err
}

// watchHolders forgets the closed connections of devices that have more than
// their share of conntrack with them, until ctx is done. Live ones are bounded
// by the ruleset.
func (d *daemon) watchHolders(ctx context.Context) error {
	tick := time.NewTicker(holdersPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if fill := conntrackFill(); fill.Used < fill.Max/2 {
			continue
		}
		n, err := d.forgetClosed()
		if err != nil {
			d.log.Error("connections of devices", "err", err)
		} else if n > 0 {
			d.log.Warn("conntrack fills: closed connections of devices above their share are forgotten", "connections", n)
		}
	}
}

// forgetClosed returns how many connections it deleted.
func (d *daemon) forgetClosed() (int, error) {
	list, err := d.holders()
	if err != nil {
		return 0, err
	}
	above := map[netip.Addr]bool{}
	for _, h := range list {
		if h.closed > 0 && h.live+h.closed > firewall.Share(d.planBoard.RAM) {
			above[h.device] = true
		}
	}
	if len(above) == 0 {
		return 0, nil
	}
	return d.conntrack.Delete(func(e *conntrack.Entry) bool { return over(e) && above[e.Orig.Src] })
}

// crowds are sentences about devices that hold as much as they may.
func (d *daemon) crowds(fill api.Fill) (out []string) {
	share := firewall.Crowded(d.planBoard.RAM)
	if fill.Used < share {
		return nil
	}
	list, err := d.holders()
	if err != nil {
		return []string{sentence(err.Error())}
	}
	names := d.names()
	for _, h := range list {
		if h.live >= share {
			out = append(out, fmt.Sprintf("%s holds %d of %d connections; new ones may be refused until it has less than %d. See: show connections",
				called(names, h.device), h.live, fill.Max, share))
		}
	}
	return out
}
