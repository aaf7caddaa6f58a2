package reconcile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/kernel/fake"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/google/go-cmp/cmp"
)

// seeds returns the seeds to try; CULVERT_SEED=n repeats one.
func seeds(t *testing.T, n int) []uint64 {
	if s := os.Getenv("CULVERT_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{v}
	}
	l := make([]uint64, n)
	for i := range l {
		l[i] = rand.Uint64()
	}
	return l
}

// physical are the interfaces that the test kernels have.
var physical = []string{"eth0", "eth1", "eth2"}

func fakeKernel(k *fake.Kernel) Kernel {
	return Kernel{Net: fake.Net{Kernel: k}, Sysctl: fake.Sysctl{Kernel: k}, Rules: fake.Rules{Kernel: k}}
}

// addrPool are addresses for both sides; some share a subnet, so that primary
// and secondary addresses matter.
var addrPool = []string{"192.168.1.1/24", "192.168.1.2/24", "192.168.1.1/16", "10.0.0.1/8", "203.0.113.2/24", "203.0.113.3/24", "198.51.100.7/32"}

// anyTarget makes a wanted state that a kernel can take.
func anyTarget(r *rand.Rand) Target {
	one := func(n int) bool { return r.IntN(n) == 0 }
	var w Target
	add := func(l netstate.Link) { w.Net.Links = append(w.Net.Links, l) }
	// Without a given address a bridge's follows its ports'.
	add(netstate.Link{Name: "br-lan", Kind: netstate.Bridge, Up: true, MAC: fmt.Sprintf("02:00:00:00:01:%02x", r.IntN(2))})
	for _, p := range []string{"eth0", "eth2"} {
		l := netstate.Link{Name: p, Kind: netstate.Physical, Master: "br-lan", Up: true}
		if one(4) {
			l.Master = ""
		}
		add(l)
	}
	wan := netstate.Link{Name: "eth1", Kind: netstate.Physical, Up: true, MTU: 1500 - 8*r.IntN(3)}
	add(wan)
	for _, dev := range []string{"br-lan", "eth1"} {
		for _, a := range addrPool {
			if one(3) {
				p := netip.MustParsePrefix(a)
				w.Net.Addrs = append(w.Net.Addrs, netstate.Addr{Link: dev, Prefix: p})
			}
		}
	}
	for _, a := range w.Net.Addrs {
		if !one(2) || a.Link != "eth1" {
			continue
		}
		via := a.Prefix.Masked().Addr().Next().Next().Next().Next()
		w.Net.Routes = append(w.Net.Routes, netstate.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: via, Dev: a.Link,
			Onlink: !a.Prefix.Contains(via), Table: netstate.MainTable, Metric: 20, Protocol: netstate.RouteProtocol})
		if one(2) {
			w.Net.Routes = append(w.Net.Routes, netstate.Route{Dst: netip.MustParsePrefix("172.16.0.0/12"), Dev: a.Link,
				Table: netstate.MainTable, Metric: r.IntN(2), Protocol: netstate.RouteProtocol})
		}
	}
	w.Net.Routes = unique(w.Net.Routes)
	w.Net.Sysctls = []netstate.Sysctl{
		{Key: "net/ipv4/ip_forward", Value: "1"},
		{Key: "net/ipv4/conf/all/promote_secondaries", Value: "1"},
		{Key: "net/ipv4/conf/all/rp_filter", Value: strconv.Itoa(r.IntN(3))},
		{Key: "net/ipv4/conf/br-lan/rp_filter", Value: strconv.Itoa(r.IntN(3)), Link: "br-lan"},
		{Key: "net/ipv4/conf/eth1/arp_ignore", Value: strconv.Itoa(r.IntN(2)), Link: "eth1"},
	}
	for _, dev := range []string{"br-lan", "eth1"} {
		if one(2) {
			w.Net.Rules = append(w.Net.Rules, netstate.Rule{Iif: dev, Protocol: uint8(115 + r.IntN(2))})
		}
	}
	w.Rules = anyTable(r)
	w.Net.Sort()
	return w
}

func unique(rs []netstate.Route) (out []netstate.Route) {
	seen := map[string]bool{}
	for _, r := range rs {
		if !seen[r.Text()] {
			seen[r.Text()] = true
			out = append(out, r)
		}
	}
	return out
}

// anyTable makes a small table with a random policy and order of chains' rules.
func anyTable(r *rand.Rand) *ruleset.Table {
	t := &ruleset.Table{}
	for i, name := range []string{"input", "forward"} {
		c := ruleset.Chain{Name: name, Type: "filter", Hook: ruleset.Input + i, Drop: r.IntN(2) == 0}
		for n := range r.IntN(3) {
			c.Rules = append(c.Rules, ruleset.R(fmt.Sprint("rule ", n)))
		}
		t.Chains = append(t.Chains, c)
	}
	return t
}

// meddle does what a foreign hand may do to a router.
func meddle(r *rand.Rand, k Kernel) {
	for range r.IntN(4) {
		c := netstate.Change{}
		switch r.IntN(7) {
		case 0:
			c.Op, c.Link = netstate.SetUp, netstate.Link{Name: []string{"eth0", "eth1", "br-lan"}[r.IntN(3)]}
		case 1:
			c.Op, c.Link = netstate.SetMaster, netstate.Link{Name: "eth0"}
		case 2, 3:
			c.Op, c.Addr = netstate.AddAddr, netstate.Addr{Link: "eth1", Prefix: netip.MustParsePrefix(addrPool[r.IntN(len(addrPool))])}
		case 4, 5:
			c.Op, c.Addr = netstate.DeleteAddr, netstate.Addr{Link: []string{"eth1", "br-lan"}[r.IntN(2)], Prefix: netip.MustParsePrefix(addrPool[r.IntN(len(addrPool))])}
		case 6:
			c.Op, c.Link = netstate.DeleteLink, netstate.Link{Name: "br-lan"}
		}
		k.Net.Do(c) // what does not work does not meddle
	}
}

func observe(t *testing.T, k Kernel, want Target) Target {
	t.Helper()
	have, err := k.Observe(want)
	if err != nil {
		t.Fatal(err)
	}
	return have
}

func same(a, b Target) bool { return netstate.Equal(a.Net, b.Net) && ruleset.Equal(a.Rules, b.Rules) }

// converged fails unless the kernel is in the state that want describes. It
// does not ask Diff alone, which may be blind.
func converged(t *testing.T, k Kernel, want Target) {
	t.Helper()
	have := observe(t, k, want)
	if p := Diff(want, have, nil); len(p.Steps) > 0 {
		t.Fatalf("the kernel still differs: %v", texts(p.Steps))
	}
	managed := netstate.State{Sysctls: have.Net.Sysctls, Rules: have.Net.Rules}
	for _, w := range want.Net.Links {
		h, ok := have.Net.Link(w.Name)
		if !ok {
			t.Fatalf("no link %s", w.Name)
		}
		if w.MAC == "" {
			h.MAC = ""
		}
		if w.MTU == 0 {
			h.MTU = 0
		}
		managed.Links = append(managed.Links, h)
		for _, a := range have.Net.Addrs {
			if a.Link == w.Name {
				managed.Addrs = append(managed.Addrs, a)
			}
		}
	}
	for _, r := range have.Net.Routes {
		if r.Protocol == netstate.RouteProtocol {
			managed.Routes = append(managed.Routes, r)
		}
	}
	if !netstate.Equal(want.Net, managed) {
		t.Fatalf("the kernel differs from what is wanted:\n%s", cmp.Diff(want.Net.Text(), managed.Text()))
	}
}

// bodyConverge is one property for every kernel: from any state that our
// steps and a foreign hand lead to, Apply(Diff(want, have)) makes it want, and
// doing it twice does nothing.
func bodyConverge(t *testing.T, r *rand.Rand, k Kernel, rounds int) {
	var was *ruleset.Table
	for range rounds {
		want := anyTarget(r)
		if _, err := k.Converge(want, was); err != nil {
			t.Fatal(err)
		}
		was = want.Rules
		converged(t, k, want)
		res, err := k.Converge(want, was)
		if err != nil || len(res.Steps) > 0 {
			t.Fatalf("the second time: %v, %v", res.Steps, err)
		}
		meddle(r, k)
	}
}

// faulty fails its n-th write.
type faulty struct {
	n    int
	seen int
}

var errFault = errors.New("fault on purpose")

func (f *faulty) due() bool { f.seen++; return f.seen-1 == f.n }

type faultyNet struct {
	Network
	*faulty
}

func (f faultyNet) Do(c netstate.Change) error {
	if f.due() {
		return errFault
	}
	return f.Network.Do(c)
}

type faultySysctl struct {
	Sysctls
	*faulty
}

func (f faultySysctl) Do(c netstate.Change) error {
	if f.due() {
		return errFault
	}
	return f.Sysctls.Do(c)
}

type faultyRules struct {
	Firewall
	*faulty
}

func (f faultyRules) Apply(from, to *ruleset.Table) error {
	if f.due() {
		return errFault
	}
	return f.Firewall.Apply(from, to)
}

// bodyUndo is the other property: whichever step fails, the state is what it
// was, and afterwards the way to want is open.
func bodyUndo(t *testing.T, r *rand.Rand, k Kernel) {
	was := anyTarget(r)
	if _, err := k.Converge(was, nil); err != nil {
		t.Fatal(err)
	}
	want := anyTarget(r)
	before := observe(t, k, want)
	steps := Diff(want, before, was.Rules).Steps
	for i := range steps {
		f := &faulty{n: i}
		broken := Kernel{faultyNet{k.Net, f}, faultySysctl{k.Sysctl, f}, faultyRules{k.Rules, f}}
		err := broken.Apply(steps)
		if !errors.Is(err, errFault) || !strings.Contains(err.Error(), fmt.Sprintf("step %d of %d", i+1, len(steps))) {
			t.Fatalf("step %d: error %v", i+1, err)
		}
		after := observe(t, k, want)
		if !same(before, after) {
			t.Fatalf("after a fault at step %d (%s) and undo:\n%s%v\nsteps:\n%s", i+1, steps[i].Text(),
				cmp.Diff(before.Net.Text(), after.Net.Text()), ruleset.Diff(before.Rules, after.Rules), strings.Join(texts(steps), "\n"))
		}
	}
	if _, err := k.Converge(want, was.Rules); err != nil {
		t.Fatal(err)
	}
	converged(t, k, want)
}

func TestConvergeFake(t *testing.T) {
	for _, seed := range seeds(t, 300) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bodyConverge(t, rand.New(rand.NewPCG(seed, 0)), fakeKernel(fake.New(physical...)), 4)
		})
	}
}

func TestUndoFake(t *testing.T) {
	for _, seed := range seeds(t, 300) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bodyUndo(t, rand.New(rand.NewPCG(seed, 0)), fakeKernel(fake.New(physical...)))
		})
	}
}
