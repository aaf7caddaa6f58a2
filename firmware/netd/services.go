package netd

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/dhcp4d"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

// serve gives every service the configuration that the plan has for it.
func (d *daemon) serve(ctx context.Context, want *plan.Desired) {
	d.mu.Lock()
	d.want = want
	d.mu.Unlock()
	d.wan.set(ctx, want.Client, d.linkOf(want.WAN.Device))
	d.lan.set(ctx, want.DHCP, want.Hostname)
	d.resolver(want.DNS.Upstreams)
	d.clock.set(ctx, want.NTP.Servers, want.DNS.Upstreams, want.WAN.Address.IsValid())
	keeper := netip.Addr{}
	if !want.Settings.Passthrough.IPsec.Enabled {
		d.tunnels.forget()
	} else if !want.Settings.Passthrough.IPsec.Copy {
		if err := d.tunnels.unshare(); err != nil {
			d.log.Error("passthrough ipsec copy off", "err", err)
		}
		keeper = passthrough.Keeper(want.Settings, d.known())
	}
	if err := d.tunnels.keep(keeper); err != nil {
		d.log.Error("passthrough priority", "err", err)
	}
	d.servers.set(want.Settings.Passthrough.ServerNames(), want.DNS.Upstreams, want.WAN.Address.IsValid())
	d.publish()
}

// resolver is for the router's own questions (NTP, ping): it asks the upstreams
// itself, so that they work without edge.
func (d *daemon) resolver(upstreams []netip.Addr) {
	var b strings.Builder
	for _, a := range upstreams {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	path := filepath.Join(d.files.run, resolvFile)
	if old, err := os.ReadFile(path); err == nil && string(old) == b.String() {
		return
	}
	if err := writeFile(path, []byte(b.String()), 0o644); err != nil {
		d.log.Error("resolver", "err", err)
	}
}

// writeFile replaces a file as a whole.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".new", b, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// runner runs one service at a time: set ends the old one before it starts the
// new one.
type runner struct {
	stop context.CancelFunc
	done chan struct{}
}

func (r *runner) start(ctx context.Context, run func(context.Context)) {
	ctx, r.stop = context.WithCancel(ctx)
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		run(ctx)
	}()
}

func (r *runner) end() {
	if r.stop != nil {
		r.stop()
		<-r.done
		r.stop = nil
	}
}

// lanServer is the LAN's DHCP server while the plan wants one.
type lanServer struct {
	d      *daemon
	mu     sync.Mutex
	server *dhcp4d.Server
	run    runner
}

func (s *lanServer) set(ctx context.Context, want *plan.DHCPServer, hostname string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want == nil {
		s.run.end()
		s.server = nil
		return
	}
	cfg := dhcp4d.Config{
		Interface: want.Device, Router: want.Address, PoolStart: want.Start, PoolEnd: want.End,
		LeaseTime: want.Lease, ShortLease: want.Short, DNS: want.DNS, Domain: want.Domain, Reserved: []string{hostname, "culvert"},
	}
	for _, h := range want.Hosts {
		mac, err := net.ParseMAC(h.MAC)
		if err != nil {
			s.d.log.Error("dhcp server: fixed host", "name", h.Name, "err", err)
			continue
		}
		cfg.Static = append(cfg.Static, dhcp4d.Static{MAC: mac, Addr: h.Addr, Name: h.Name})
	}
	for _, r := range want.Routes {
		cfg.Routes = append(cfg.Routes, dhcp4d.Route{Dst: r.Dst, Via: r.Via})
	}
	if s.server != nil {
		if err := s.server.SetConfig(cfg); err != nil {
			s.d.log.Error("dhcp server", "err", err)
		}
		return
	}
	server, err := dhcp4d.New(dhcp4d.Options{
		Config: cfg, Store: leaseStore{s.d.leases}, Log: s.d.log.With("service", "dhcp server"), OnChange: s.d.lanLeases,
	})
	if err != nil {
		s.d.log.Error("dhcp server", "err", err)
		return
	}
	s.server = server
	s.run.start(ctx, func(ctx context.Context) { s.d.keep(ctx, "dhcp server", server.Run) })
}

// edges are the edge processes that watch for their configuration; normally one.
type edges struct {
	mu    sync.Mutex
	last  *api.EdgeConfig
	subs  map[chan *api.EdgeConfig]bool
	stats api.EdgeStats
}

// publish tells edge what it needs to know now.
func (d *daemon) publish() {
	d.edges.publish(func() *api.EdgeConfig { return d.edgeConfig(d.desired()) })
}

// publish tells every edge; one that is slow gets the newest only. The
// configuration is made under the lock, so that an older one never comes last.
func (e *edges) publish(config func() *api.EdgeConfig) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := config()
	if e.last != nil && reflect.DeepEqual(*e.last, *c) {
		return
	}
	e.last = c
	for ch := range e.subs {
		select {
		case <-ch: // an older one that was not taken yet
		default:
		}
		ch <- c
	}
}

// watch sends the configuration now and whenever it changes.
func (e *edges) watch(ctx context.Context, _ api.Peer, _ api.EdgeHello, send func(api.EdgeConfig) error) error {
	ch := make(chan *api.EdgeConfig, 1)
	e.mu.Lock()
	if e.last != nil {
		ch <- e.last
	}
	e.subs[ch] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.subs, ch)
		e.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-ch:
			if err := send(*c); err != nil {
				return err
			}
		}
	}
}

// edgeConfig is everything that edge needs to know.
func (d *daemon) edgeConfig(want *plan.Desired) *api.EdgeConfig {
	s := d.running()
	c := &api.EdgeConfig{
		Hostname: want.Hostname, Board: d.board.Name,
		LANDevice: want.LAN.Device, LANAddress: want.LAN.Address, WANDevice: want.WAN.Device,
		Upstreams: slices.Clone(want.DNS.Upstreams), CacheSize: want.DNS.CacheSize,
		SSHPort: want.SSH.Port, SSHOnWAN: want.SSH.OnWAN, HostKey: d.hostKey(),
		Claimed: claimed(s), Password: string(s.System.Admin.Password), Keys: s.System.Admin.Keys,
		ClaimWindow: claimWindow,
	}
	names := map[string]netip.Addr{}
	for _, n := range want.DNS.Names {
		names[n.Name] = n.Addr
		c.Names = append(c.Names, api.Name{Name: n.Name, Addr: n.Addr})
	}
	for _, n := range []string{want.Hostname, "culvert"} {
		if _, ok := names[n]; !ok {
			c.Names = append(c.Names, api.Name{Name: n, Addr: want.LAN.Address.Addr()})
			names[n] = want.LAN.Address.Addr()
		}
	}
	return c
}
