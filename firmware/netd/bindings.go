package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/nflog"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/passthrough/learn"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// lateness is how old an event may be when it is read: nothing is judged
// before what belongs to it was read too.
const lateness = 100 * time.Millisecond

// bindings learns whose the ESP of a server of several devices is, see package
// learn, and keeps the kernel's rules by it, see plan/passthrough.
type bindings struct {
	t     *tunnels
	start time.Time
	wake  chan struct{}

	mu sync.Mutex
	l  *learn.Learner

	bound, ended atomic.Uint64 // bindings that began, and that ended in doubt or with their device
}

func newBindings(t *tunnels) *bindings {
	return &bindings{t: t, start: time.Now(), wake: make(chan struct{}, 1), l: learn.New()}
}

// told takes what the kernel tells of ESP.
func (b *bindings) told(p nflog.Packet, src, dst netip.Addr) {
	header := 4 * int(p.Data[0]&15)
	if len(p.Data) < header+4 || p.Data[9] != unix.IPPROTO_ESP {
		return
	}
	spi, when := binary.BigEndian.Uint32(p.Data[header:]), b.when(p.Time)
	b.mu.Lock()
	switch p.Prefix {
	case plan.LogIn, plan.LogInToo:
		b.l.In(when, src, spi, p.Prefix == plan.LogIn)
	case plan.LogSilent:
		b.l.Unanswered(src, spi)
	case plan.LogOut, plan.LogOutToo:
		b.l.Out(when, dst, src, spi, p.Prefix == plan.LogOut)
	}
	b.mu.Unlock()
	b.nudge()
}

// when is a moment by the learner's clock, which no step of the system's moves.
func (b *bindings) when(at time.Time) time.Duration {
	var ago time.Duration
	if !at.IsZero() {
		ago = min(max(time.Since(at), 0), time.Second)
	}
	return time.Since(b.start) - ago
}

func (b *bindings) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// devices says who talks to a server.
func (b *bindings) devices(a facts.Association) {
	b.mu.Lock()
	b.l.Devices(a.Server, a.Devices)
	b.mu.Unlock()
	b.nudge()
}

// forget is for when nothing is bound any more.
func (b *bindings) forget() {
	b.mu.Lock()
	b.l = learn.New()
	b.mu.Unlock()
}

// takeOver goes on with what the kernel has. What is nobody's any more goes.
func (b *bindings) takeOver(shared []facts.Association) error {
	for _, a := range shared {
		b.devices(a)
	}
	servers := map[netip.Addr]netip.Addr{}
	for _, a := range shared {
		servers[a.Server] = netip.Addr{}
	}
	user, err := b.old(servers)
	if err != nil {
		return err
	}
	for _, s := range [...]struct {
		set  string
		kind learn.Kind
	}{{plan.Bound, learn.Bind}, {plan.Settled, learn.Settle}} {
		list, err := b.t.learned(s.set)
		if err != nil {
			return err
		}
		for _, e := range list {
			c := learn.Change{Kind: s.kind, Server: address(e.Key), SPI: spiOf(e)}
			if s.kind == learn.Bind {
				c.Device = address(e.Data)
			} else {
				c.Device = user[e.Key]
			}
			b.mu.Lock()
			ok := b.l.Adopt(b.when(time.Time{}), c)
			b.mu.Unlock()
			if !ok {
				c.Kind++ // Unbind, Unsettle
				if err := b.apply(c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// shared is for servers that have a second device now. Until then all SPIs were
// the first one's.
func (b *bindings) shared(first map[netip.Addr]netip.Addr) error {
	_, err := b.old(first)
	b.nudge()
	return err
}

// old tells the learner of the SPIs that are there of servers, each with the
// device that had it alone, if one had. It returns whose those of devices are.
func (b *bindings) old(servers map[netip.Addr]netip.Addr) (map[ruleset.Key]netip.Addr, error) {
	if len(servers) == 0 {
		return nil, nil
	}
	in, err := b.t.learned(plan.Inbound)
	if err != nil {
		return nil, err
	}
	out, err := b.t.learned(plan.Outbound)
	if err != nil {
		return nil, err
	}
	inbound, outbound := map[netip.Addr][]uint32{}, map[netip.Addr]map[uint32]netip.Addr{}
	for _, e := range in {
		server := address(e.Key)
		inbound[server] = append(inbound[server], spiOf(e))
	}
	user := map[ruleset.Key]netip.Addr{}
	for _, e := range out {
		server, device := address(e.Key), address(e.Data)
		if outbound[server] == nil {
			outbound[server] = map[uint32]netip.Addr{}
		}
		outbound[server][spiOf(e)], user[e.Key] = device, device
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for server, alone := range servers {
		b.l.Old(b.when(time.Time{}), server, inbound[server], outbound[server], alone)
	}
	return user, nil
}

func spiOf(e nft.Learned) uint32 { return binary.BigEndian.Uint32([]byte(e.Key[4:8])) }

// run judges until ctx is done.
func (b *bindings) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.wake:
		}
		now := time.Since(b.start) - lateness
		b.mu.Lock()
		changes := b.l.Advance(now)
		next, ok := b.l.Next()
		b.mu.Unlock()
		for _, c := range changes {
			if err := b.apply(c); err != nil {
				b.t.d.log.Error("whose an SPI is", "server", c.Server, "device", c.Device, "err", err)
			}
		}
		if ok {
			timer.Reset(max(next-now, time.Millisecond))
		}
	}
}

// apply writes a change into the rules' sets.
func (b *bindings) apply(c learn.Change) error {
	set := plan.LearnedSet(plan.Settled)
	e := ruleset.Element{Key: ruleset.Cat(ruleset.Addr(c.Server), ruleset.Key(binary.BigEndian.AppendUint32(nil, c.SPI)))}
	if c.Kind == learn.Bind || c.Kind == learn.Unbind {
		set = plan.LearnedSet(plan.Bound)
	}
	var err error
	switch c.Kind {
	case learn.Bind:
		e.Data = ruleset.Addr(c.Device)
		err = b.t.rules.Relearn(set, e)
	case learn.Settle:
		err = b.t.rules.Learn(set, e)
	default:
		err = b.t.rules.Unlearn(set, e)
	}
	switch {
	case errors.Is(err, unix.ENOENT): // the server is not shared any more, or the switch was turned off
		return nil
	case err != nil:
		return err
	case c.Kind == learn.Bind:
		b.bound.Add(1)
		b.t.d.log.Debug("an SPI has an owner", "server", c.Server, "spi", c.SPI, "device", c.Device)
	case c.Kind == learn.Unbind:
		b.ended.Add(1)
		b.t.d.log.Debug("an SPI has no owner any more", "server", c.Server, "spi", c.SPI, "device", c.Device)
	}
	return nil
}
