// Package boot is PID 1: it prepares the system in phases that are data, runs
// the services, answers on a control socket, feeds the watchdog while netd is
// healthy, and stops everything in order.
package boot

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/board"
	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/supervise"
)

// Options are what PID 1 of a machine does; Default has the router's.
type Options struct {
	Mounts  []Mount
	Sysctls []Sysctl
	// Hardware tells what the board has; called once /proc, /sys and /dev are there.
	Hardware func() (Hardware, error)
	// DropAll loads the ruleset that refuses everything until netd loads its own.
	DropAll func() error
	// Services are started in this order and stopped in reverse.
	Services func(env ServiceEnv) []supervise.Service
	// OpenWatchdog opens the hardware watchdog; nil: there is none.
	OpenWatchdog func() (Watchdog, error)
	Health       Health

	Cmdline  string // file with the kernel's command line
	SysBlock string // directory with the block devices
	Kmsg     string // the kernel's log, "" for none
	DataDir  string // where the data disk is mounted
	Seed     string // the file system a blank data disk gets
	Baked    string // initial settings inside the image
	Initial  string // where initial settings are put for netd
	Socket   string // control socket

	Console io.Writer           // for people; gets whole lines
	Reboot  func(cmd int) error // reboot(2)
}

// Hardware is what init has to know of a board.
type Hardware struct {
	Board        string // its name
	Console      string // serial console, e.g. /dev/ttyS0; "" for none
	DataDisk     Disk
	SettingsDisk Disk // read-only disk with initial settings, if the board allows one
	Watchdog     bool
	Quirks       []board.Quirk
}

// Disk names a block device by its path or, when that is empty, its serial
// number. The zero Disk is none.
type Disk struct{ Path, Serial string }

// ServiceEnv is what the boot found out for the services.
type ServiceEnv struct {
	Hardware Hardware
	Failed   string // why the boot stopped half way; "" if it did not
}

// machine is PID 1 at work.
type machine struct {
	o      Options
	log    *slog.Logger
	ring   *supervise.Ring // init's own log
	kernel *supervise.Ring

	reaper *supervise.Reaper
	sup    *supervise.Supervisor

	cmdline  map[string]string
	hw       Hardware
	data     dataDisk
	watchdog *feeder
	bootTime time.Duration

	quiet    atomic.Bool // services run: the console is the shell's
	requests chan request

	mu       sync.Mutex
	problems []string
	failed   string
}

func newMachine(o Options) *machine {
	m := &machine{
		o:        o,
		ring:     supervise.NewRing(32<<10, nil, nil),
		kernel:   supervise.NewRing(32<<10, nil, nil),
		reaper:   supervise.NewReaper(),
		requests: make(chan request, 1),
	}
	m.log = slog.New(slog.NewTextHandler(m.ring, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{} // the ring has its own clocks
		}
		return a
	}}))
	m.sup = supervise.New(supervise.Options{Log: m.log, Reaper: m.reaper, Guard: m.guard, Ended: m.ended})
	return m
}

// Main is the whole of cmd/init.
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is the router's first process; started by hand it does nothing")
		os.Exit(1)
	}
	debug.SetGCPercent(20) // little is ever allocated here: collect early, stay small
	Run(Default())
}

// Run is PID 1. It ends with reboot(2) and so returns only inside a container
// whose kernel ends the process right after.
func Run(o Options) {
	m := newMachine(o)
	m.guard("init", m.run)
}

func (m *machine) run() {
	signals := make(chan os.Signal, 8)
	// The kernel drops signals that PID 1 does not handle, but the Go runtime
	// handles all and would die of most: these mean something or are ignored.
	// (Not signal.Ignore: services would inherit that.)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR,
		unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGALRM)
	m.spawn("reaper", func() { _ = m.reaper.Run(context.Background()) })

	m.runPhases(phases())

	services := m.o.Services(ServiceEnv{Hardware: m.hw, Failed: m.failed})
	if err := m.sup.Add(services...); err != nil {
		m.problem("Services: " + err.Error())
	}
	if _, ok := m.cmdline["culvert.verbose"]; ok {
		for _, s := range services {
			m.sup.Log(s.Name).Echo(func(l supervise.Line) { m.print(s.Name + ": " + l.Text) })
		}
	}
	m.bootTime = supervise.Uptime()
	m.say("%s: starting services %.1f s after the kernel", m.hw.Board, m.bootTime.Seconds())
	m.quiet.Store(true)

	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	m.spawn("supervisor", func() { defer close(stopped); _ = m.sup.Run(ctx) })
	m.spawn("health", func() { m.watchHealth(ctx) })
	m.spawn("control socket", func() { m.serveControl(ctx) })

	req := m.awaitRequest(signals)
	m.shutdown(req, stop, stopped)
}

// awaitRequest waits until somebody wants the machine to go down.
func (m *machine) awaitRequest(signals <-chan os.Signal) request {
	for {
		select {
		case r := <-m.requests:
			return r
		case s := <-signals:
			switch s {
			case unix.SIGTERM, unix.SIGINT: // SIGINT: Ctrl-Alt-Del
				return request{kind: reboot, why: "signal " + unix.SignalName(s.(unix.Signal))}
			case unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR:
				return request{kind: poweroff, why: "signal " + unix.SignalName(s.(unix.Signal))}
			}
		}
	}
}

// spawn runs f in a goroutine whose panic reboots instead of ending PID 1.
func (m *machine) spawn(name string, f func()) { go m.guard(name, f) }

// print writes lines to the console. The carriage returns are for a console
// that the shell has put in raw mode.
func (m *machine) print(text string) {
	fmt.Fprintf(m.o.Console, "%s\r\n", strings.ReplaceAll(text, "\n", "\r\n"))
}

// say tells people on the console, and the log. Once the services run the
// console belongs to the shell and only the log is told.
func (m *machine) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	m.ring.Add(line)
	if !m.quiet.Load() {
		m.print("culvert: " + line)
	}
}

// ended tells the person at the console why a service is not there: without
// netd nobody else can.
func (m *machine) ended(name, exit string, last []supervise.Line, pause time.Duration) {
	m.print(fmt.Sprintf("culvert: %s ended (%s) and starts again in %s. Its last lines:", name, exit, pause))
	for _, l := range last {
		m.print("  " + l.Text)
	}
}

// problem is say for what went wrong; `show status` has it too.
func (m *machine) problem(text string) {
	m.mu.Lock()
	m.problems = append(m.problems, text)
	m.mu.Unlock()
	m.say("%s", text)
}

func (m *machine) status() *initctl.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &initctl.Status{
		Uptime: supervise.Uptime(), BootTime: m.bootTime, Board: m.hw.Board,
		Data: m.data.Data, Watchdog: m.watchdog.name(),
		Problems: append([]string(nil), m.problems...),
	}
}

// parseCmdline splits a kernel command line; a word without "=" has the value "".
func parseCmdline(s string) map[string]string {
	words := map[string]string{}
	for _, w := range strings.Fields(s) {
		k, v, _ := strings.Cut(w, "=")
		words[k] = v
	}
	return words
}

// findDisk returns the device of d, "" if the machine has no such disk.
func findDisk(sysBlock string, d Disk) string {
	if d.Path != "" {
		if _, err := os.Stat(d.Path); err != nil {
			return ""
		}
		return d.Path
	}
	if d.Serial == "" {
		return ""
	}
	files, _ := filepath.Glob(filepath.Join(sysBlock, "*", "serial"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.TrimSpace(string(b)) == d.Serial {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(f)))
		}
	}
	return ""
}
