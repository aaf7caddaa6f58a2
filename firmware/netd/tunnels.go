package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/nflog"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/passthrough"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Of the associations in table ip.
const (
	tunnelPoll = time.Minute // how often it is looked who is still there
	tunnelIdle = time.Hour   // how long after the last sign a device gets copies
	mostShared = 64          // devices of one server
	ahLog      = 10 * time.Minute
)

// pair is a device with a server.
type pair struct{ server, device netip.Addr }

// tunnels lets second devices of an IPsec server in, and knows what native
// tunnels there are. The packets are the kernel's: see plan/passthrough.
type tunnels struct {
	d        *daemon
	rules    *nft.Conn
	bindings *bindings
	door     door

	keeper netip.Addr // of keep, which serve calls alone

	mu    sync.Mutex
	since map[pair]time.Time // first seen
	last  map[pair]time.Time // last seen
	ah    map[pair]time.Time // when its AH was last logged

	admitted atomic.Uint64 // further devices of servers
	refused  atomic.Uint64 // packets of devices beyond mostShared
}

func newTunnels(d *daemon) *tunnels {
	t := &tunnels{d: d, rules: nft.New(nft.Options{}), door: door{wake: make(chan struct{}, 1)}, since: map[pair]time.Time{}, last: map[pair]time.Time{}, ah: map[pair]time.Time{}}
	t.bindings = newBindings(t)
	return t
}

// learned reads a learned set; it is empty while there is no table ip.
func (t *tunnels) learned(name string) ([]nft.Learned, error) {
	list, err := t.rules.Learned(plan.LearnedSet(name))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return list, err
}

// since is how long ago a packet put the element there or refreshed it: every
// packet of a device does.
func since(name string, e nft.Learned) time.Duration {
	return max(0, plan.LearnedSet(name).Timeout-e.Expires)
}

// takeOver learns from the kernel what a netd before this one had learned: the
// first plan must not end the copies of servers that are shared.
func (t *tunnels) takeOver() error {
	devices, err := t.look()
	if err != nil {
		return err
	}
	first, err := t.firsts()
	if err != nil {
		return err
	}
	for server, ds := range devices {
		if len(ds) > 1 || ds[0] != first[server] {
			t.d.facts.Shared = append(t.d.facts.Shared, facts.Association{Server: server, Devices: ds})
		}
	}
	slices.SortFunc(t.d.facts.Shared, func(a, b facts.Association) int { return a.Server.Compare(b.Server) })
	return t.bindings.takeOver(t.d.facts.Shared)
}

// look reads who talks to whom, and remembers when.
func (t *tunnels) look() (map[netip.Addr][]netip.Addr, error) {
	list, err := t.learned(plan.Assocs)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	devices := map[netip.Addr][]netip.Addr{}
	for _, e := range list {
		p := pair{address(e.Key), address(e.Key[4:])}
		devices[p.server] = append(devices[p.server], p.device)
		if t.since[p].IsZero() {
			t.since[p] = now
		}
		t.last[p] = now
	}
	for p, at := range t.last {
		if now.Sub(at) > tunnelIdle {
			delete(t.last, p)
			delete(t.since, p)
		}
	}
	for _, ds := range devices {
		slices.SortFunc(ds, netip.Addr.Compare)
	}
	return devices, nil
}

// run serves until ctx is done.
func (t *tunnels) run(ctx context.Context) error {
	l, err := nflog.Listen(plan.LogGroup)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go t.watch(ctx)
	go t.watchShares(ctx)
	go t.admitAll(ctx)
	go t.bindings.run(ctx)
	return l.Run(ctx, func(p nflog.Packet) {
		if len(p.Data) < 20 {
			return
		}
		at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(p.Data[i : i+4])) }
		from := pair{server: at(16), device: at(12)}
		switch p.Prefix {
		case plan.LogSecond:
			t.door.knock(from)
		case plan.LogAH:
			t.refusedAH(from)
		default:
			t.bindings.told(p, at(12), at(16))
		}
	})
}

// refusedAH says, once in a while, why a device's AH does not pass.
func (t *tunnels) refusedAH(p pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.ah[p]) < ahLog {
		return
	}
	if len(t.ah) >= mostShared {
		clear(t.ah)
	}
	t.ah[p] = time.Now()
	t.d.log.Warn("AH (IP protocol 51) can't cross NAT, because it signs the addresses that NAT rewrites: refused. Configure ESP in the VPN of both ends",
		"device", p.device, "server", p.server)
}

// share puts a server's devices into the facts; without devices it goes.
func (t *tunnels) share(a facts.Association) {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(t.d.facts.Shared), func(b facts.Association) bool { return b.Server == a.Server })
	if len(a.Devices) > 0 {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b facts.Association) int { return a.Server.Compare(b.Server) })
	t.d.facts.Shared = list
	t.bindings.devices(a)
}

// watch ends copies to devices that are gone.
func (t *tunnels) watch(ctx context.Context) {
	tick := time.NewTicker(tunnelPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := t.look(); err != nil {
			t.d.log.Error("IPsec associations", "err", err)
			continue
		}
		for _, a := range t.d.known().Shared {
			left := slices.DeleteFunc(slices.Clone(a.Devices), func(device netip.Addr) bool { return !t.alive(pair{a.Server, device}) })
			if len(left) != len(a.Devices) {
				t.share(facts.Association{Server: a.Server, Devices: left})
				t.d.replan()
			}
		}
	}
}

// forget is for when IPsec was turned off: all tunnels have ended.
func (t *tunnels) forget() {
	t.d.mu.Lock()
	t.d.facts.Shared = nil
	t.d.mu.Unlock()
	t.bindings.forget()
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.since)
	clear(t.last)
}

// unshare leaves each server to the device that came first: copies are off. The
// others come again as if they were new.
func (t *tunnels) unshare() error {
	t.d.mu.Lock()
	shared := t.d.facts.Shared
	t.d.facts.Shared = nil
	t.d.mu.Unlock()
	if len(shared) == 0 {
		return nil
	}
	t.bindings.forget()
	first, err := t.firsts()
	if err != nil {
		return err
	}
	for _, name := range [...]string{plan.Assocs, plan.Sends, plan.Fresh} {
		list, err := t.learned(name)
		if err != nil {
			return err
		}
		var gone []ruleset.Element
		for _, e := range list {
			if f, ok := first[address(e.Key)]; ok && f != owners[name](e) {
				gone = append(gone, ruleset.Element{Key: e.Key})
			}
		}
		if err := t.rules.Unlearn(plan.LearnedSet(name), gone...); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// firsts is who came first, by server.
func (t *tunnels) firsts() (map[netip.Addr]netip.Addr, error) {
	list, err := t.learned(plan.First)
	first := map[netip.Addr]netip.Addr{}
	for _, e := range list {
		first[address(e.Key)] = address(e.Data)
	}
	return first, err
}

func (t *tunnels) alive(p pair) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.last[p].IsZero()
}

// sessions gives the native tunnels.
func (t *tunnels) sessions() ([]passthrough.Native, error) {
	devices, err := t.look()
	if err != nil {
		return nil, err
	}
	var sets [3][]nft.Learned
	for i, name := range []string{plan.Cookies, plan.Outbound, plan.Inbound} {
		if sets[i], err = t.learned(name); err != nil {
			return nil, err
		}
		// What was refreshed last expires last.
		slices.SortFunc(sets[i], func(a, b nft.Learned) int { return int(b.Expires/time.Millisecond - a.Expires/time.Millisecond) })
	}
	list, err := t.learned(plan.Bound)
	if err != nil {
		return nil, err
	}
	bound := map[ruleset.Key]netip.Addr{}
	for _, e := range list {
		bound[e.Key] = address(e.Data)
	}
	shared := t.d.known().Shared
	var out []passthrough.Native
	for server, ds := range devices {
		for _, device := range ds {
			n := passthrough.Native{Server: server, Device: device, Since: t.first(pair{server, device}),
				Shared: slices.ContainsFunc(shared, func(a facts.Association) bool { return a.Server == server && len(a.Devices) > 1 })}
			for _, e := range sets[0] {
				if address(e.Key) == server && address(e.Data) == device {
					n.Cookies = append(n.Cookies, passthrough.Cookie{SPI: binary.BigEndian.Uint64([]byte(e.Key[4:12])), Last: since(plan.Cookies, e)})
				}
			}
			for _, e := range sets[1] {
				if address(e.Key) == server && address(e.Data) == device {
					out := esp(e)
					out.Last = since(plan.Outbound, e)
					n.Out = append(n.Out, out)
				}
			}
			for _, e := range sets[2] {
				if address(e.Key) == server {
					in := esp(e)
					in.Bound = bound[e.Key]
					n.In = append(n.In, in)
				}
			}
			out = append(out, n)
		}
	}
	return out, nil
}

func (t *tunnels) first(p pair) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since[p]
}

func esp(e nft.Learned) passthrough.ESP {
	return passthrough.ESP{SPI: binary.BigEndian.Uint32([]byte(e.Key[4:8])), Packets: e.Packets, Bytes: e.Bytes}
}

// address is the IPv4 address at the start of a key.
func address(k ruleset.Key) netip.Addr { return netip.AddrFrom4([4]byte([]byte(k[:4]))) }
