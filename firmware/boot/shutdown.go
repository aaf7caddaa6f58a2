package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kind is how the machine's run ends.
type kind int

const (
	reboot kind = iota
	poweroff
	factoryReset // erases /data at the next boot, and reboots
)

func (k kind) String() string {
	return [...]string{"reboot", "power-off", "factory reset"}[k]
}

// request asks for the end of the machine's run.
type request struct {
	kind kind
	why  string
}

// request asks for the machine to go down; only the first one counts.
func (m *machine) request(r request) {
	select {
	case m.requests <- r:
	default:
	}
}

// shutdownLimit is when the machine goes down whatever still hangs.
const shutdownLimit = 60 * time.Second

// shutdown stops the services, in reverse order, saves what must be saved,
// unmounts and calls reboot(2).
func (m *machine) shutdown(r request, stopServices context.CancelFunc, stopped <-chan struct{}) {
	cmd := unix.LINUX_REBOOT_CMD_RESTART
	if r.kind == poweroff {
		cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	m.quiet.Store(false)
	m.say("%s (%s): stopping services", r.kind, r.why)
	time.AfterFunc(shutdownLimit, func() {
		m.print("culvert: the shutdown hangs; forced")
		if m.watchdog != nil {
			m.watchdog.on.Store(false) // should even this hang, the hardware ends it
		}
		_ = m.o.Reboot(cmd)
	})
	stopServices()
	<-stopped
	m.killRest()
	if m.data.mounted {
		if err := saveSeed(m.seedFile(), nil); err != nil {
			m.say("random seed not saved: %v", err)
		}
	}
	unix.Sync()
	unmounted := m.unmountData()
	if r.kind == factoryReset {
		m.markData(unmounted)
	}
	if err := m.watchdog.disarm(); err != nil {
		m.say("watchdog not disarmed: %v", err)
	}
	m.say("%s", map[bool]string{true: "power off", false: "restart"}[r.kind == poweroff])
	if err := m.o.Reboot(cmd); err != nil {
		m.say("reboot(2): %v", err)
		// Ends PID 1, and so the kernel, which restarts after its panic.
		os.Exit(1)
	}
}

// killRest ends what services left behind outside of their process groups.
func (m *machine) killRest() {
	if os.Getpid() != 1 {
		return // kill(-1) spares only PID 1 and, in its own namespace, strangers
	}
	_ = unix.Kill(-1, unix.SIGKILL)
}

// unmountData unmounts /data. While something still holds it, it is tried
// again for a moment; at last it is made read-only, which writes all out too.
func (m *machine) unmountData() bool {
	if !m.data.mounted {
		return true
	}
	var err error
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = unix.Unmount(m.o.DataDir, 0); err == nil {
			return true
		}
	}
	rerr := unix.Mount("", m.o.DataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY|dataFlags, "")
	m.say("data: not unmounted (%v), made read-only instead (%v)", err, rerr)
	return false
}

// markData asks the next boot to erase the data disk.
func (m *machine) markData(unmounted bool) {
	disk, err := os.OpenFile(m.data.Device, os.O_RDWR, 0)
	if err != nil {
		m.say("factory reset impossible: %v", err)
		return
	}
	defer disk.Close()
	if err := markReset(disk); err != nil {
		m.say("factory reset impossible: %v", err)
		return
	}
	m.say("data: %s will be erased at the next boot", m.data.Device)
	if !unmounted {
		m.log.Warn("marked while mounted")
	}
}

// panicFile keeps the last panic for the next boot.
func (m *machine) panicFile() string { return filepath.Join(m.o.DataDir, "last-panic") }

// guard runs f. A panic in PID 1 would be a kernel panic: it is told, what is
// in memory is written out, and the machine restarts.
func (m *machine) guard(name string, f func()) {
	defer func() {
		if r := recover(); r != nil {
			m.panicked(name, r, debug.Stack())
		}
	}()
	f()
}

// panicked must not take a lock: the panicking goroutine may hold it.
func (m *machine) panicked(name string, what any, stack []byte) {
	text := fmt.Sprintf("init: panic in %s: %v\n%s", name, what, stack)
	m.print("culvert: " + text + "culvert: restarting")
	done := make(chan struct{})
	go func() { // no guard: there is nothing left to guard
		defer close(done)
		if m.data.mounted {
			_ = replaceFile(m.panicFile(), []byte(text))
		}
		unix.Sync()
		if m.data.mounted {
			_ = unix.Mount("", m.o.DataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY|dataFlags, "")
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
	}
	_ = m.o.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(2)
}

// reportLast tells of a fault that ended the last run.
func (m *machine) reportLast() error {
	return errors.Join(
		m.report(m.panicFile(), "Init: the last run ended in a fault of init itself; type show log init for it, and please report it."),
		m.report(m.hangFile(), "Watchdog: the network manager did not answer, so the watchdog restarted the router; type show log init for its last lines, and please report them."),
	)
}

// report tells of what the last run left in a file, once.
func (m *machine) report(path, problem string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		m.ring.Add(strings.TrimRight(line, "\n"))
	}
	m.problem(problem)
	return os.Remove(path)
}
