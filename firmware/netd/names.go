package netd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/dns"
	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/resolve"
)

// Of the names of servers in settings.
const (
	namesFile     = "server-names.json"
	namesWait     = 3 * time.Second // a commit waits so long for names that are new
	namesPatience = time.Minute     // a name may have no address so long until people are told
)

// loopbackDNS is edge, whose cache has the answers that the LAN's devices get.
var loopbackDNS = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)

// serverNames keeps the DNS names that settings have for VPN servers resolved.
type serverNames struct {
	d        *daemon
	resolver *resolve.Resolver
	edge     *dns.Server
	direct   *dns.Server // while edge is away

	mu        sync.Mutex
	wanted    []string // of the settings in effect
	extra     []string // of a commit under way
	upstreams []netip.Addr
	online    bool

	emitting sync.Mutex
}

func newServerNames(d *daemon) *serverNames {
	n := &serverNames{d: d, edge: dns.New(dns.Options{}), direct: dns.New(dns.Options{})}
	n.edge.SetConfig(dns.Config{Upstreams: []netip.AddrPort{loopbackDNS}, CacheSize: -1})
	n.resolver = resolve.New(resolve.Options{
		Lookup: n.lookup, InUse: n.inUse, Emit: n.emit, Previous: n.kept(), Log: d.log.With("service", "server names"),
	})
	d.facts.Names = n.resolver.Names()
	return n
}

// set says which names are wanted, and asks for all of them when others can be
// asked now.
func (n *serverNames) set(names []string, upstreams []netip.Addr, online bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = names
	n.resolver.SetNames(n.all())
	if same := slices.Equal(upstreams, n.upstreams); !same || online && !n.online {
		if !same {
			n.upstreams = slices.Clone(upstreams)
			c := dns.Config{CacheSize: -1}
			for _, a := range upstreams {
				c.Upstreams = append(c.Upstreams, netip.AddrPortFrom(a, 53))
			}
			n.direct.SetConfig(c)
		}
		if online {
			n.resolver.Kick()
		}
	}
	n.online = online
}

// all are the names that are wanted, and those of a commit under way.
func (n *serverNames) all() []string {
	all := slices.Concat(n.wanted, n.extra)
	slices.Sort(all)
	return slices.Compact(all)
}

// prepare resolves names that settings will have, so that a commit ends no
// tunnel to where they lead. It waits for a moment only. The function it
// returns has to be called when the commit is over.
func (n *serverNames) prepare(ctx context.Context, names []string) (done func()) {
	n.mu.Lock()
	n.extra = names
	n.resolver.SetNames(n.all())
	fresh := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(n.wanted, name) })
	online := n.online
	n.mu.Unlock()
	if online && len(fresh) > 0 {
		ctx, stop := context.WithTimeout(ctx, namesWait)
		defer stop()
		var wg sync.WaitGroup
		for _, s := range n.resolver.States() {
			if slices.Contains(fresh, s.Name) {
				wg.Go(func() { n.resolver.Refresh(ctx, s.Name) })
			}
		}
		wg.Wait()
		n.emit()
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.extra = nil
		n.resolver.SetNames(n.all())
	}
}

// lookup asks edge, so that the router knows the answer that the devices got;
// without it the upstreams.
func (n *serverNames) lookup(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	addrs, ttl, err := n.edge.Lookup(ctx, name)
	if err != nil && !errors.Is(err, dns.ErrNoName) && !errors.Is(err, dns.ErrNoAddress) {
		addrs, ttl, err = n.direct.Lookup(ctx, name)
	}
	if errors.Is(err, dns.ErrNoName) || errors.Is(err, dns.ErrNoAddress) {
		err = noAddress{err}
	}
	return addrs, ttl, err
}

// noAddress is DNS's word that there is none.
type noAddress struct{ error }

func (noAddress) Is(target error) bool { return target == resolve.ErrNone }

// inUse are the addresses with connections: tunnels of some protocols can be at
// any port, so all of them count.
func (n *serverNames) inUse() (map[netip.Addr]bool, error) {
	used := map[netip.Addr]bool{}
	err := n.d.conntrack.Dump(func(e *conntrack.Entry) error {
		used[e.Orig.Dst], used[e.Orig.Src] = true, true
		return nil
	})
	if err != nil {
		return nil, err
	}
	native, err := n.d.tunnels.look()
	for server := range native {
		used[server] = true
	}
	return used, err
}

// emit makes facts of what is known, and keeps it for the next netd.
func (n *serverNames) emit() {
	n.emitting.Lock()
	defer n.emitting.Unlock()
	names := n.resolver.Names()
	n.d.mu.Lock()
	same := slices.EqualFunc(names, n.d.facts.Names, func(a, b facts.Name) bool { return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) })
	n.d.facts.Names = names
	n.d.mu.Unlock()
	if !same {
		n.d.replan()
	}
	if err := n.keep(); err != nil {
		n.d.log.Warn("the addresses of servers' names are not kept over a restart", "err", err)
	}
}

// keptName is a name for the next netd, times since the kernel started.
type keptName struct {
	Name     string         `json:"name"`
	Addrs    []keptAddr     `json:"addrs"`
	Resolved *time.Duration `json:"resolved,omitempty"`
}

type keptAddr struct {
	Addr     netip.Addr    `json:"addr"`
	Answered time.Duration `json:"answered"`
}

func (n *serverNames) keep() error {
	path := filepath.Join(n.d.files.run, namesFile)
	started := time.Now().Add(-uptime())
	list := []keptName{}
	for _, s := range n.resolver.States() {
		k := keptName{Name: s.Name}
		if !s.Resolved.IsZero() {
			at := s.Resolved.Sub(started)
			k.Resolved = &at
		}
		for _, a := range s.Addrs {
			k.Addrs = append(k.Addrs, keptAddr{a.Addr, a.Answered.Sub(started)})
		}
		list = append(list, k)
	}
	if len(list) == 0 {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return writeFile(path, b, 0o600)
}

// kept is what the netd before this one knew: a restart must not refuse
// tunnels that run.
func (n *serverNames) kept() (states []resolve.State) {
	b, err := os.ReadFile(filepath.Join(n.d.files.run, namesFile))
	var list []keptName
	if err != nil || json.Unmarshal(b, &list) != nil {
		return nil
	}
	started := time.Now().Add(-uptime())
	for _, k := range list {
		s := resolve.State{Name: k.Name}
		if k.Resolved != nil {
			s.Resolved = started.Add(*k.Resolved)
		}
		for _, a := range k.Addrs {
			s.Addrs = append(s.Addrs, resolve.Addr{Addr: a.Addr, Answered: started.Add(a.Answered)})
		}
		states = append(states, s)
	}
	return states
}

// problems are the names that lead nowhere.
func (n *serverNames) problems() (out []string) {
	n.mu.Lock()
	online := n.online
	n.mu.Unlock()
	if !online {
		return nil // that is the problem
	}
	s := n.d.desired().Settings
	for _, x := range n.resolver.States() {
		if len(x.Addrs) > 0 || x.Problem == "" || time.Since(x.Failing) < namesPatience {
			continue
		}
		var lists []string
		for _, p := range s.Passthrough.Protocols() {
			if slices.Contains(p.Servers, x.Name) {
				lists = append(lists, "passthrough "+p.Name+" servers")
			}
		}
		out = append(out, fmt.Sprintf("%s in %s has no address: %s. Fix: correct it there; or, where no name resolves, set dns upstreams 9.9.9.9; commit", x.Name, strings.Join(lists, ", "), x.Problem))
	}
	return out
}

// status is what people are shown.
func (n *serverNames) status() []api.ServerName {
	out := []api.ServerName{}
	now := time.Now()
	for _, s := range n.resolver.States() {
		v := api.ServerName{Name: s.Name, Addresses: []netip.Addr{}, Problem: s.Problem, Next: max(0, s.Next.Sub(now))}
		if !s.Resolved.IsZero() {
			ago := now.Sub(s.Resolved)
			v.Resolved = &ago
		}
		for _, a := range s.Addrs {
			if s.Current(a) {
				v.Addresses = append(v.Addresses, a.Addr)
			} else {
				v.Held = append(v.Held, a.Addr)
			}
		}
		out = append(out, v)
	}
	return out
}

// refresh asks anew for a name that a list of servers has, and puts the answer
// in force. found are its addresses; none when no list has it.
func (n *serverNames) refresh(ctx context.Context, name string) (found []netip.Addr) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !slices.Contains(n.d.desired().Settings.Passthrough.ServerNames(), name) {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, namesWait)
	defer stop()
	n.resolver.Refresh(ctx, name)
	n.emit()
	n.d.applyMu.Lock()
	err := n.d.converge(n.d.life)
	n.d.applyMu.Unlock()
	if err != nil {
		n.d.log.Error("apply what was learnt", "err", err)
	}
	for _, x := range n.d.known().Names {
		if x.Name == name {
			found = x.Addrs
		}
	}
	return found
}

// unknown tells of a name in a list that has no address, "" when all have.
func (n *serverNames) unknown(list []string) string {
	for _, s := range n.resolver.States() {
		if slices.Contains(list, s.Name) && len(s.Addrs) == 0 {
			if s.Problem == "" {
				return s.Name + " in it has no address yet"
			}
			return s.Name + " in it has no address: " + s.Problem
		}
	}
	return ""
}
