// Package netd is the network manager: it puts settings, facts and plan
// together with the reconcile loop, the clients and servers, and the API.
// It only composes; each part is a package of its own.
package netd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-fw/culvert/board"
	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/rtnl"
	"github.com/culvert-fw/culvert/firmware/kernel/sysctl"
	"github.com/culvert-fw/culvert/firmware/kernel/watch"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ntp"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/reconcile"
	"github.com/culvert-fw/culvert/firmware/reconcile/confirm"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/firmware/store"
)

// folders are where netd's files are.
type folders struct {
	data string // culvert.db
	etc  string // what the image carries: board.json, version
	run  string // the API socket, and what only has to outlive netd
}

var router = folders{data: "/data", etc: "/etc/culvert", run: filepath.Dir(api.Socket)}

// Files in them.
const (
	databaseFile = "culvert.db"
	boardFile    = "board.json"
	versionFile  = "version"
	initialFile  = "initial-settings.json" // put there by init
	resolvFile   = "resolv.conf"
	leaseFile    = "wan-lease.json"
)

// startUp is how long netd may take more memory for speed.
const startUp = 8 * time.Second

// edge's user and group, see rootfs/etc/passwd.
const edgeUID, edgeGID = 100, 100

// daemon is the running network manager.
type daemon struct {
	log       *slog.Logger
	files     folders
	board     *board.Board
	planBoard plan.Board
	version   string
	hostKey   func() []byte // SSH's

	store   *store.Store
	kept    store.KV // what outlives even a damaged database
	state   store.KV // what was learnt
	leases  store.KV // of the LAN
	commits *confirm.Committer[store.Meta]

	rec       *reconcile.Reconciler
	conntrack *conntrack.Conn
	init      *initClient

	wan   *wanClient
	lan   *lanServer
	clock *clock
	edges *edges

	tunnels  *tunnels
	servers  *serverNames
	l2tp     *l2tpTunnels
	watching atomic.Int32 // diagnoses that watch packets

	wake    chan struct{}
	applyMu sync.Mutex      // one change of kernel and services at a time
	life    context.Context // netd's own: what a request starts must not end with it

	mu     sync.Mutex
	byHand bool // a person chose the LAN's address
	leased bool // the WAN had a lease since the boot
	// portsDown: the LAN's ports are down for a moment, see moved.
	portsDown bool
	facts     facts.Facts
	have      netstate.State // as it was observed last
	want      *plan.Desired  // as it was planned last
	notes     []string       // what the person must know since the start
	undone    string         // the commit that nobody confirmed, until somebody commits again
	// tried is the LAN address that a commit set by hand which nobody has
	// confirmed yet; invalid when there is none.
	tried netip.Prefix
	// carried are the settings carried out last, nil before the first commit.
	carried *settings.Settings
}

// Main runs netd until SIGTERM and returns its exit status.
func Main() int {
	// The LAN waits for the first seconds, which are all allocation; GOMEMLIMIT
	// still bounds them.
	started := spacious.begin()
	time.AfterFunc(startUp, func() {
		started()
		debug.FreeOSMemory()
	})
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, router, log); err != nil {
		log.Error("netd ends", "err", err)
		return 1
	}
	return 0
}

// dropTime leaves the time out: init's log has it.
func dropTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}

func run(ctx context.Context, files folders, log *slog.Logger) error {
	d := &daemon{log: log, files: files, wake: make(chan struct{}, 1), edges: &edges{subs: map[chan *api.EdgeConfig]bool{}}, init: &initClient{path: filepath.Join(files.run, filepath.Base(initctl.Socket))}}
	d.wan, d.lan, d.tunnels = &wanClient{d: d}, &lanServer{d: d}, newTunnels(d)
	d.l2tp = newL2TPTunnels(d, d.tunnels.rules)
	d.clock = &clock{d: d, options: ntp.Options{Set: ntp.SetClock, Slew: ntp.SlewClock}}
	d.hostKey = sync.OnceValue(d.readHostKey)
	if err := d.readBoard(); err != nil {
		return err
	}
	if err := d.openStore(); err != nil {
		return err
	}
	defer d.store.Close()
	d.restoreClock()
	d.servers = newServerNames(d)
	ticks, err := d.openKernel(ctx)
	if err != nil {
		return err
	}
	ln, err := api.Listen(ctx, filepath.Join(files.run, filepath.Base(api.Socket)), edgeGID)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	d.life = ctx
	g.Go(func() error { return ticks.Run(ctx) })
	g.Go(func() error { return d.rec.Run(ctx) })
	g.Go(func() error { return d.commits.Run(ctx) })
	d.replan()
	g.Go(func() error { return d.planLoop(ctx) })
	g.Go(func() error { return d.tunnels.run(ctx) })
	g.Go(func() error { return d.watchHolders(ctx) })
	g.Go(func() error { return d.servers.resolver.Run(ctx) })
	g.Go(func() error { return d.l2tp.run(ctx) })
	g.Go(func() error { return d.serveAPI(ctx, ln) })
	err = g.Wait()
	d.wan.set(context.Background(), nil, facts.Link{})
	d.lan.set(context.Background(), nil, "")
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// readBoard reads what the image carries about the hardware and itself.
func (d *daemon) readBoard() error {
	b, err := os.ReadFile(filepath.Join(d.files.etc, boardFile))
	if err != nil {
		return err
	}
	if d.board, err = board.Parse(b); err != nil {
		return err
	}
	d.planBoard = plan.Board{LANPorts: d.board.Ports.LAN, WANPort: d.board.Ports.WAN, RAM: int(memory().Total >> 20)}
	v, err := os.ReadFile(filepath.Join(d.files.etc, versionFile))
	if err != nil {
		d.log.Warn("no version", "err", err)
	}
	// A line each for what the image is made of: "culvert v1.0", "linux 6.12.1".
	d.version = "unknown"
	for line := range strings.Lines(string(v)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "culvert "); ok {
			d.version = rest
		}
	}
	return nil
}

// openKernel opens everything that reads or changes the kernel.
func (d *daemon) openKernel(ctx context.Context) (*watch.Watcher, error) {
	net, err := rtnl.New()
	if err != nil {
		return nil, err
	}
	if d.conntrack, err = conntrack.New(); err != nil {
		return nil, err
	}
	ticks, err := watch.New()
	if err != nil {
		return nil, err
	}
	have, err := net.Observe()
	if err != nil {
		return nil, err
	}
	d.takeOver(ctx, have)
	if err := d.tunnels.takeOver(); err != nil {
		return nil, err
	}
	d.rec = reconcile.New(reconcile.Options{
		Kernel: reconcile.Kernel{Net: net, Sysctl: sysctl.Dir("/proc/sys"), Rules: d.tunnels.rules},
		Ticks:  ticks.C(), Gone: d.endAddresses, Observed: d.observed, Log: d.log,
	})
	d.commits = confirm.New(confirm.Options[store.Meta]{
		Store: revisions{d.store}, Confirmed: d.confirmed(), Apply: d.apply, Restore: d.restore, RolledBack: d.rolledBack, Log: d.log,
	})
	if d.running().LAN.DHCP.Enabled {
		if err := d.takeLeases(); err != nil {
			d.log.Warn("leases of before cannot be read", "err", err)
		}
	}
	want, problems := d.plan(d.running())
	if len(problems) > 0 {
		return nil, fmt.Errorf("the settings can't be carried out: %w", problems)
	}
	d.want = want
	return ticks, nil
}

// desired is the last plan.
func (d *daemon) desired() *plan.Desired {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.want
}

// note keeps a sentence that people are told at every login until netd ends.
func (d *daemon) note(text string) {
	d.log.Warn(text)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, text)
}

// rolledBack tells about a commit that nobody confirmed.
func (d *daemon) rolledBack(gone []int, now confirm.Revision) {
	text := fmt.Sprintf("Revision %d was not confirmed; the router went back to revision %d.", gone[len(gone)-1], now.N)
	d.log.Warn(text)
	d.mu.Lock()
	d.undone = text
	d.mu.Unlock()
	d.publish()
}

// keep runs a service again when it fails, with a growing pause.
func (d *daemon) keep(ctx context.Context, name string, run func(context.Context) error) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		d.log.Error("service ended and is started again", "service", name, "err", err, "in", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
