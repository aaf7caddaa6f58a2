// Package edge composes what faces people and the LAN: the DNS forwarder, the
// SSH server and the shell. It holds no state of its own: everything it needs
// comes from netd, and it goes on with the latest of it while netd is away.
package edge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/dns"
	"github.com/culvert-fw/culvert/firmware/sshd"
)

const (
	minRetry   = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
	statsEvery = 10 * time.Second
)

// Options are what edge needs; zero fields get what the router has.
type Options struct {
	Socket  string // of netd, default api.Socket
	Console string // tty of the serial shell, "" for none
	Log     *slog.Logger
	Uptime  func() time.Duration // since power-on
	// Ready is called once when the first configuration is in force.
	Ready func()
}

// Edge is the process.
type Edge struct {
	o    Options
	api  *api.Client
	dns  *dns.Server
	ssh  *sshd.Server
	gate *sshd.Gate

	cfg   atomic.Pointer[api.EdgeConfig]
	first chan struct{} // closed when cfg is there
}

// New makes an edge that does nothing before Run.
func New(o Options) *Edge {
	if o.Socket == "" {
		o.Socket = api.Socket
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Uptime == nil {
		o.Uptime = uptime
	}
	e := &Edge{o: o, api: api.NewClient(o.Socket), gate: sshd.NewGate(time.Now), first: make(chan struct{})}
	e.dns = dns.New(dns.Options{Log: o.Log, Now: time.Now, Rand: rand.Reader})
	e.ssh = sshd.New(sshd.Options{Log: o.Log, Gate: e.gate, Session: e.session, Uptime: o.Uptime})
	return e
}

// loopbackDNS is where the router's own processes ask.
var loopbackDNS = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)

// uptime is the time since power-on; neither NTP nor suspend changes it.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Duration(1<<63 - 1) // unknown: whatever closes is closed
	}
	return time.Duration(ts.Nano())
}

// Main is the edge command.
func Main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))
	slog.SetDefault(log)
	if err := confine(); err != nil {
		log.Error("edge: refuses to serve, because it could not be confined", "err", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGHUP) // the serial line's
	e := New(Options{Log: log, Console: os.Getenv("CULVERT_CONSOLE"), Ready: tellReady})
	if err := e.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Error("edge: ended", "err", err)
		os.Exit(1)
	}
}

// dropTime leaves the time of a log line to init, which keeps the lines.
func dropTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// tellReady writes to the descriptor that init named, if it did.
func tellReady() {
	var fd int
	if _, err := fmt.Sscan(os.Getenv("CULVERT_READY_FD"), &fd); err != nil || fd < 3 {
		return
	}
	f := os.NewFile(uintptr(fd), "ready")
	f.Write([]byte{'\n'}) //nolint:errcheck // init stopped waiting
	f.Close()
}

// Run serves until ctx ends.
func (e *Edge) Run(ctx context.Context) error {
	names := newKeeper(e.o.Log, "dns", func(ctx context.Context, k listenKey) error {
		l, err := dns.Listen(ctx, k.device, k.addr)
		if err != nil {
			return err
		}
		// For netd, which has to see the answers that the LAN's devices see.
		own, err := dns.Listen(ctx, "lo", loopbackDNS)
		if err != nil {
			e.o.Log.Warn("edge: no DNS for the router itself", "err", err)
		}
		return e.dns.Run(ctx, dns.Listeners{UDP: append(l.UDP, own.UDP...), TCP: append(l.TCP, own.TCP...)})
	})
	lan := newKeeper(e.o.Log, "ssh", e.serveSSH(ctx, true))
	wan := newKeeper(e.o.Log, "ssh on the WAN", e.serveSSH(ctx, false))
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, k := range []*keeper{names, lan, wan} {
		wg.Go(func() { k.run(ctx) })
	}
	wg.Go(func() { e.reportStats(ctx) })
	if e.o.Console != "" {
		wg.Go(func() { e.serial(ctx) })
	}
	retry := minRetry
	for {
		err := e.api.Stream(ctx, api.MethodEdgeWatch, api.EdgeHello{PID: os.Getpid()}, func(raw json.RawMessage) error {
			retry = minRetry
			var c api.EdgeConfig
			if err := json.Unmarshal(raw, &c); err != nil {
				return fmt.Errorf("netd's configuration: %w", err)
			}
			return e.apply(&c, names, lan, wan)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, api.ErrAway) {
			e.o.Log.Warn("edge: the stream of configurations ended", "err", err)
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return ctx.Err()
		}
		retry = min(2*retry, maxRetry)
	}
}

// apply puts a configuration in force.
func (e *Edge) apply(c *api.EdgeConfig, names, lan, wan *keeper) error {
	if err := e.ssh.SetConfig(sshd.Config{HostKey: c.HostKey, Claimed: c.Claimed, Password: c.Password, Keys: c.Keys, Window: c.ClaimWindow}); err != nil {
		e.o.Log.Error("edge: ssh stays as it was", "err", err)
	}
	e.dns.SetConfig(dnsConfig(c))
	if e.cfg.Swap(c) == nil {
		close(e.first)
		if e.o.Ready != nil {
			e.o.Ready()
		}
	}
	a := c.LANAddress.Addr()
	names.want(listenKey{c.LANDevice, netip.AddrPortFrom(a, 53)})
	lan.want(listenKey{c.LANDevice, netip.AddrPortFrom(a, uint16(c.SSHPort))})
	if c.SSHOnWAN && c.WANDevice != "" && c.Claimed {
		wan.want(listenKey{c.WANDevice, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(c.SSHPort))})
	} else {
		wan.want(listenKey{})
	}
	return nil
}

func dnsConfig(c *api.EdgeConfig) dns.Config {
	d := dns.Config{
		Domain:    c.Hostname + ".lan",
		Router:    c.LANAddress.Addr(),
		CacheSize: c.CacheSize,
	}
	if c.CacheSize == 0 {
		d.CacheSize = -1 // 0 in the settings means none
	}
	if c.LANAddress.IsValid() {
		d.Clients = []netip.Prefix{c.LANAddress.Masked()}
	}
	for _, u := range c.Upstreams {
		d.Upstreams = append(d.Upstreams, netip.AddrPortFrom(u, 53))
	}
	for _, n := range c.Names {
		d.Hosts = append(d.Hosts, dns.Host{Name: n.Name, Addr: n.Addr})
	}
	return d
}

// reportStats tells netd the DNS counters, for `show status`.
func (e *Edge) reportStats(ctx context.Context) {
	t := time.NewTicker(statsEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		s := e.dns.Stats()
		err := e.api.Call(ctx, api.MethodEdgeStats, api.EdgeStats{
			Queries: s.Queries, Hits: s.Hits, Failures: s.UpstreamFailures, Entries: s.Entries}, nil)
		if err != nil {
			e.o.Log.Debug("edge: counters not reported", "err", err)
		}
	}
}
