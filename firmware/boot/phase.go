package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/supervise"
)

// policy says what a failed phase means for the rest of the boot.
type policy int

const (
	// warn: a problem is noted and the boot goes on.
	warn policy = iota
	// fatal: the phases that follow are skipped, except those that keep the
	// router closed. The services start all the same, and are told, so that a
	// person at the serial console can look.
	fatal
)

// phase is one step of the boot.
type phase struct {
	name   string
	policy policy
	always bool // runs even after a fatal failure
	run    func(*machine) error
}

// phases returns the boot in its order.
func phases() []phase {
	return []phase{
		{"Mounts", fatal, false, (*machine).mountAll},
		{"Console", warn, false, (*machine).openConsole},
		{"Board", warn, false, (*machine).loadBoard},
		{"Board quirks", warn, true, (*machine).writeQuirks},
		{"Hostname", warn, false, func(*machine) error { return unix.Sethostname([]byte("culvert")) }},
		{"Kernel settings", warn, true, (*machine).writeSysctls},
		// Before any link can go up, so that the router fails closed.
		{"Firewall", fatal, true, (*machine).dropAll},
		{"Loopback", warn, false, func(*machine) error { return loopbackUp() }},
		{"Watchdog", warn, true, (*machine).openWatchdog},
		{"Data", fatal, false, (*machine).mountData},
		{"Random seed", warn, false, func(m *machine) error { return mixSeed(m.seedFile()) }},
		{"Initial settings", warn, false, (*machine).initialSettings},
		{"Serial console", warn, true, (*machine).handOverConsole},
		{"Last fault", warn, false, (*machine).reportLast},
	}
}

// runPhases runs the boot's phases by their policies.
func (m *machine) runPhases(list []phase) {
	for _, p := range list {
		if m.failed != "" && !p.always {
			m.log.Warn("phase skipped", "phase", p.name)
			continue
		}
		start := supervise.Uptime()
		err := p.run(m)
		took := (supervise.Uptime() - start).Round(time.Millisecond)
		if err == nil {
			m.log.Info("phase done", "phase", p.name, "took", took)
			continue
		}
		text := fmt.Sprintf("%s: %v.", p.name, err)
		m.problem(text)
		if p.policy == fatal && m.failed == "" {
			m.failed = text
			m.say("the boot stops here; the firewall refuses everything; the services are started so that you can look")
		}
	}
}

// Mount is one file system of the boot.
type Mount struct {
	Source, Target, Type string
	Flags                uintptr
	Data                 string
}

// Sysctl is one kernel setting, named like in sysctl(8).
type Sysctl struct {
	Name, Value string
	Optional    bool // not every kernel has it
}

// mountAll makes the mounts. What is there already (devtmpfs, mounted by the
// kernel) is fine.
func (m *machine) mountAll() error {
	var errs []error
	for _, mt := range m.o.Mounts {
		// Below a tmpfs or devtmpfs; on the read-only root it exists.
		_ = os.MkdirAll(mt.Target, 0o755)
		err := unix.Mount(mt.Source, mt.Target, mt.Type, mt.Flags, mt.Data)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("%s on %s not mounted: %w", mt.Type, mt.Target, err))
		}
	}
	if m.o.Initial != "" {
		errs = append(errs, os.MkdirAll(filepath.Dir(m.o.Initial), 0o755))
	}
	// For edge's own small files; nothing else is writable for it.
	if err := os.Mkdir(edgeHome, 0o700); err == nil {
		errs = append(errs, os.Chown(edgeHome, edgeUID, edgeUID))
	}
	return errors.Join(errs...)
}

// openConsole reads the command line, starts to follow the kernel's log and
// makes Ctrl-Alt-Del a signal.
func (m *machine) openConsole() error {
	b, err := os.ReadFile(m.o.Cmdline)
	m.cmdline = parseCmdline(string(b))
	if os.Getpid() == 1 {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	}
	if m.o.Kmsg != "" {
		f, kerr := os.Open(m.o.Kmsg)
		if kerr != nil {
			return errors.Join(err, kerr)
		}
		m.spawn("kernel log", func() { followKmsg(f, m.kernel) })
	}
	return err
}

func (m *machine) loadBoard() error {
	hw, err := m.o.Hardware()
	m.hw = hw
	return err
}

// writeSysctls writes all, and reports all that failed.
func (m *machine) writeSysctls() error {
	var errs []error
	for _, s := range m.o.Sysctls {
		path := "/proc/sys/" + strings.ReplaceAll(s.Name, ".", "/")
		err := os.WriteFile(path, []byte(s.Value), 0)
		if err != nil && !(s.Optional && errors.Is(err, os.ErrNotExist)) {
			errs = append(errs, fmt.Errorf("%s=%s not set: %w", s.Name, s.Value, err))
		}
	}
	return errors.Join(errs...)
}

// loopbackUp sets lo up; the kernel gives it 127.0.0.1 by itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("lo: flags not read: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("lo not set up: %w", err)
	}
	return nil
}

// handOverConsole gives the serial console to edge, which runs the shell on it.
func (m *machine) handOverConsole() error {
	tty := m.hw.Console
	if tty == "" {
		return nil
	}
	return errors.Join(os.Chown(tty, edgeUID, edgeUID), os.Chmod(tty, 0o600))
}

// followKmsg copies the kernel's log, record by record, until f ends.
func followKmsg(f *os.File, ring *supervise.Ring) {
	defer f.Close()
	buf := make([]byte, 8192) // a read gets one record; the kernel's longest is 1 KiB and its tags
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.EPIPE) {
			continue // overwritten before we came; the next read goes on
		}
		if err != nil {
			return
		}
		if at, text, ok := parseKmsg(string(buf[:n])); ok {
			ring.AddAt(at, text)
		}
	}
}

// parseKmsg takes a record of /dev/kmsg apart: "prio,seq,usec,flags;text\n"
// and lines of tags, which begin with a space.
func parseKmsg(rec string) (at time.Duration, text string, ok bool) {
	head, text, ok := strings.Cut(rec, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return 0, "", false
	}
	usec, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return 0, "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	return time.Duration(usec) * time.Microsecond, text, true
}

func (m *machine) dropAll() error {
	if m.o.DropAll == nil {
		return errors.New("no ruleset to load")
	}
	return m.o.DropAll()
}
