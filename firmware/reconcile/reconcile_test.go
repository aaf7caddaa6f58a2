package reconcile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/fake"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// home is a plain router.
func home(wan string) Target {
	t := Target{Net: netstate.State{
		Links: []netstate.Link{
			{Name: "br-lan", Kind: netstate.Bridge, Up: true, Why: "board"},
			{Name: "eth0", Kind: netstate.Physical, Master: "br-lan", Up: true, Why: "board"},
			{Name: "eth1", Kind: netstate.Physical, Up: true, MTU: 1500, Why: "wan mode"},
		},
		Addrs: []netstate.Addr{{Link: "br-lan", Prefix: netip.MustParsePrefix("192.168.1.1/24"), Why: "lan address"}},
		Sysctls: []netstate.Sysctl{
			{Key: "net/ipv4/ip_forward", Value: "1", Why: "it is a router"},
			{Key: "net/ipv4/conf/all/promote_secondaries", Value: "1"},
		},
	}, Rules: &ruleset.Table{
		Flowtables: []ruleset.Flowtable{{Name: "ft", Devices: []string{"br-lan", "eth1"}}},
		Chains:     []ruleset.Chain{{Name: "input", Type: "filter", Hook: ruleset.Input, Drop: true}},
	}}
	if wan != "" {
		t.Net.Addrs = append(t.Net.Addrs, netstate.Addr{Link: "eth1", Prefix: netip.MustParsePrefix(wan), Why: "wan mode dhcp"})
	}
	return t
}

// running is a Reconciler with its loop on a fake kernel that ticks.
type running struct {
	*Reconciler
	k    *fake.Kernel
	log  *bytes.Buffer
	gone []netip.Addr
}

func start(t *testing.T) *running {
	r := &running{k: fake.New(physical...), log: new(bytes.Buffer)}
	ticks := make(chan struct{}, 1)
	r.k.Notify(func() {
		select {
		case ticks <- struct{}{}:
		default:
		}
	})
	r.Reconciler = New(Options{
		Kernel: fakeKernel(r.k), Ticks: ticks, Log: slog.New(slog.NewTextHandler(r.log, nil)),
		Gone: func(a []netip.Addr) error { r.gone = append(r.gone, a...); return nil },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *running) apply(t *testing.T, want Target) Result {
	t.Helper()
	res, err := r.Apply(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		got := r.apply(t, home("203.0.113.2/24")).Steps
		want := []string{
			"nft: rewrite table inet culvert: + table inet culvert (firewall)",
			"write 1 to /proc/sys/net/ipv4/ip_forward (it is a router)",
			"write 1 to /proc/sys/net/ipv4/conf/all/promote_secondaries",
			"ip link add br-lan type bridge (board)",
			"ip link set br-lan up (board)",
			"ip link set eth0 master br-lan (board)",
			"ip link set eth0 up (board)",
			"ip link set eth1 up (wan mode)",
			"ip addr add 192.168.1.1/24 dev br-lan (lan address)",
			"ip addr add 203.0.113.2/24 dev eth1 (wan mode dhcp)",
			"nft: rewrite table inet culvert: ~ flowtable ft: definition differs (firewall offload)",
		}
		if !slices.Equal(got, want) {
			t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		// A new address comes before the old one goes.
		got = r.apply(t, home("203.0.113.3/24")).Steps
		want = []string{"ip addr add 203.0.113.3/24 dev eth1 (wan mode dhcp)", "ip addr delete 203.0.113.2/24 dev eth1 (no setting asks for it)"}
		if !slices.Equal(got, want) {
			t.Errorf("steps:\n%s", strings.Join(got, "\n"))
		}
		if !slices.Equal(r.gone, []netip.Addr{netip.MustParseAddr("203.0.113.2")}) {
			t.Errorf("gone: %v", r.gone)
		}
	})
}

func TestForeignHandIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		want := home("203.0.113.2/24")
		r.apply(t, want)
		time.Sleep(time.Minute)
		r.log.Reset()
		err := fake.Net{Kernel: r.k}.Do(netstate.Change{Op: netstate.DeleteAddr, Addr: want.Net.Addrs[0]})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if l := r.log.String(); !strings.Contains(l, "ip addr add 192.168.1.1/24 dev br-lan") || !strings.Contains(l, "something else changed the kernel") {
			t.Errorf("log: %s", l)
		}
		converged(t, fakeKernel(r.k), want)
	})
}

func TestResyncWithoutTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		want := home("")
		r.apply(t, want)
		r.k.Notify(nil)
		fakeKernel(r.k).Net.Do(netstate.Change{Op: netstate.SetUp, Link: netstate.Link{Name: "eth0"}})
		time.Sleep(defaultResync + time.Second)
		converged(t, fakeKernel(r.k), want)
	})
}

func TestQuietRouterIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.apply(t, home(""))
		time.Sleep(time.Second)
		before := r.k.Looks()
		time.Sleep(time.Hour)
		if n, most := r.k.Looks()-before, int(time.Hour/defaultResync)+1; n > most {
			t.Errorf("%d looks in an hour, want at most %d", n, most)
		}
	})
}

// TestFight has somebody undo every repair at once: it must not become a busy
// loop, and end well when the other one gives in.
func TestFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		want := home("203.0.113.2/24")
		r.apply(t, want)
		ctx, giveIn := context.WithCancel(t.Context())
		fight := make(chan struct{})
		go func() {
			defer close(fight)
			for ctx.Err() == nil {
				fakeKernel(r.k).Net.Do(netstate.Change{Op: netstate.DeleteAddr, Addr: want.Net.Addrs[1]})
				time.Sleep(10 * time.Millisecond)
			}
		}()
		time.Sleep(time.Minute)
		before := r.k.Looks()
		time.Sleep(time.Hour)
		if n := r.k.Looks() - before; n > 150 {
			t.Errorf("%d looks in an hour of fighting", n)
		}
		giveIn()
		<-fight
		time.Sleep(maxBackoff + time.Second)
		converged(t, fakeKernel(r.k), want)
	})
}

func TestApplyFailsAndTakesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		old, want := home("203.0.113.2/24"), home("198.51.100.2/24")
		want.Rules = &ruleset.Table{Chains: []ruleset.Chain{{Name: "input", Type: "filter", Hook: ruleset.Input}}}
		r.apply(t, old)
		r.k.Fault(func(_ int, what string) error {
			if strings.Contains(what, "addr delete 203") {
				return errFault
			}
			return nil
		})
		_, err := r.Apply(t.Context(), want, nil)
		if !errors.Is(err, errFault) || !strings.Contains(err.Error(), "everything is as it was") {
			t.Fatalf("error: %v", err)
		}
		converged(t, fakeKernel(r.k), old)
		time.Sleep(2 * time.Minute)
		converged(t, fakeKernel(r.k), old)
	})
}

// TestUndoFailsToo tells the truth when the way back is blocked, and the loop
// gets back as soon as it can.
func TestUndoFailsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		old := home("203.0.113.2/24")
		r.apply(t, old)
		r.k.Fault(func(n int, _ string) error {
			if n > 0 {
				return errFault
			}
			return nil
		})
		_, err := r.Apply(t.Context(), home("198.51.100.2/24"), nil)
		if !errors.Is(err, errFault) || !strings.Contains(err.Error(), "between two states") {
			t.Fatalf("error: %v", err)
		}
		r.k.Fault(nil)
		time.Sleep(2 * time.Minute)
		converged(t, fakeKernel(r.k), old)
	})
}

func TestSetIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.apply(t, home(""))
		r.k.Fault(func(int, string) error { return errFault })
		want := home("203.0.113.2/24")
		if _, err := r.Set(t.Context(), want); !errors.Is(err, errFault) {
			t.Fatalf("error: %v", err)
		}
		time.Sleep(10 * time.Minute)
		r.k.Fault(nil)
		time.Sleep(2 * maxBackoff)
		converged(t, fakeKernel(r.k), want)
	})
}

func TestAfterRunsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		want := home("")
		boom := errors.New("boom")
		_, err := r.Apply(t.Context(), want, func() error {
			converged(t, fakeKernel(r.k), want)
			return boom
		})
		if !errors.Is(err, boom) {
			t.Errorf("error: %v", err)
		}
		converged(t, fakeKernel(r.k), want)
	})
}

func TestMissingInterfaceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		want := home("203.0.113.2/24")
		for i, l := range want.Net.Links {
			if l.Name == "eth1" {
				want.Net.Links[i].Name = "eth9"
			}
		}
		want.Net.Addrs[1].Link = "eth9"
		want.Rules = want.Rules.WithFlowtableDevices("br-lan", "eth9")
		res := r.apply(t, want)
		if !slices.Equal(res.Missing, []string{"interface eth9 does not exist"}) {
			t.Errorf("missing: %v", res.Missing)
		}
	})
}

func TestForeignIsReportedNotRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		want := home("203.0.113.2/24")
		r.apply(t, want)
		elsewhere := netstate.Addr{Link: "eth2", Prefix: netip.MustParsePrefix("10.0.0.1/24")}
		fakeKernel(r.k).Net.Do(netstate.Change{Op: netstate.AddAddr, Addr: elsewhere})
		foreign := netstate.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Dev: "eth1", Table: netstate.MainTable, Protocol: 4}
		fakeKernel(r.k).Net.Do(netstate.Change{Op: netstate.AddRoute, Route: foreign})
		res := r.apply(t, want)
		if len(res.Steps) > 0 || !slices.Equal(res.Foreign, []string{"route 10.0.0.0/8 dev eth1 proto 4"}) {
			t.Errorf("steps %v, foreign %v", res.Steps, res.Foreign)
		}
	})
}

// deaf is a firewall that says yes and does nothing.
type deaf struct{ Firewall }

func (deaf) Apply(_, _ *ruleset.Table) error { return nil }

func TestSecondDiffTellsWhatRemains(t *testing.T) {
	k := fakeKernel(fake.New(physical...))
	k.Rules = deaf{k.Rules}
	_, err := k.Converge(home(""), nil)
	var drift *DriftError
	if !errors.As(err, &drift) || len(drift.Remains) != 1 || !strings.Contains(err.Error(), "+ table inet culvert") {
		t.Errorf("error: %v", err)
	}
}

// meddling is a network in which somebody else is at work after one change.
type meddling struct {
	Network
	after string // the change, as text
	hand  func() error
}

func (m *meddling) Do(c netstate.Change) error {
	if err := m.Network.Do(c); err != nil || m.hand == nil || !strings.Contains(c.Text(), m.after) {
		return err
	}
	hand := m.hand
	m.hand = nil
	return hand()
}

// TestDriftIsTriedOnceMore: a commit does not fail because something else
// changed the kernel just then; when the second try fails, all of it goes.
func TestDriftIsTriedOnceMore(t *testing.T) {
	old, want := home("203.0.113.2/24"), home("198.51.100.2/24")
	for _, blocked := range []bool{false, true} {
		fk := fake.New(physical...)
		k := fakeKernel(fk)
		if _, err := k.Converge(old, nil); err != nil {
			t.Fatal(err)
		}
		k.Net = &meddling{Network: k.Net, after: "addr delete 203", hand: func() error {
			if blocked {
				fk.Fault(func(n int, _ string) error {
					if n == 1 { // 0 is the meddling itself
						return errFault
					}
					return nil
				})
			}
			return fake.Net{Kernel: fk}.Do(netstate.Change{Op: netstate.DeleteAddr, Addr: want.Net.Addrs[1]})
		}}
		res, err := k.Converge(want, old.Rules)
		if blocked {
			if !errors.Is(err, errFault) || !strings.Contains(err.Error(), "everything is as it was") {
				t.Errorf("the second try fails: %v", err)
			}
			converged(t, k, old)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		converged(t, k, want)
		const add = "ip addr add 198.51.100.2/24 dev eth1 (wan mode dhcp)"
		if n := len(res.Steps); n != 3 || res.Steps[n-1] != add || len(res.Gone) != 1 {
			t.Errorf("steps %q, gone %v", res.Steps, res.Gone)
		}
	}
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := start(t).Health(ctx); err != nil {
			t.Error(err)
		}
		if err := New(Options{}).Health(ctx); err == nil {
			t.Error("a loop that does not run is healthy")
		}
	})
}

// counted counts how often the links are read.
type counted struct {
	Network
	n int
}

func (c *counted) Observe() (netstate.State, error) { c.n++; return c.Network.Observe() }

// TestRulesAlone: a change of the rules reads nothing else, unless something
// tells that the rest may have changed.
func TestRulesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, ticks := fake.New(physical...), make(chan struct{}, 1)
		kernel := fakeKernel(k)
		net := &counted{Network: kernel.Net}
		kernel.Net = net
		r := New(Options{Kernel: kernel, Ticks: ticks})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		apply := func(want Target) int {
			t.Helper()
			before := net.n
			if _, err := r.Apply(ctx, want, nil); err != nil {
				t.Fatal(err)
			}
			return net.n - before
		}
		other := func(name string) Target {
			want := home("203.0.113.2/24")
			want.Rules.Chains[0].Rules = []ruleset.Rule{ruleset.R(name, ruleset.Verdict{Kind: ruleset.Accept})}
			return want
		}
		if n := apply(home("203.0.113.2/24")); n == 0 {
			t.Error("the first change reads no links")
		}
		if n := apply(other("a")); n != 0 {
			t.Errorf("other rules: the links are read %d times", n)
		}
		if _, rules := k.State(); len(rules.Chains[0].Rules) != 1 {
			t.Error("the rules did not change")
		}
		ticks <- struct{}{}
		if n := apply(other("b")); n == 0 {
			t.Error("after an event the links are not read")
		}
		want := other("b")
		want.Net.Links[0].MTU = 1400
		if n := apply(want); n == 0 {
			t.Error("other links are not read")
		}
		before := net.n
		time.Sleep(2 * defaultResync)
		synctest.Wait()
		if net.n == before {
			t.Error("no look at the kernel in all that time")
		}
	})
}
