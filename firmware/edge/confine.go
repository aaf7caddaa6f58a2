package edge

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// allowed are the capabilities that edge may have: DNS and SSH listen below
// port 1024, ping and traceroute use raw sockets.
const allowed = 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW

// confine gives up what edge got for its children: no ambient capabilities, so
// that a toolbox has none, and no new privileges by any file. An error says
// that edge has more rights than it should, and must not meet strangers.
func confine() error {
	if os.Getuid() == 0 || os.Geteuid() == 0 {
		return errors.New("it runs as root, but serves strangers: start it with a uid of its own, as init does")
	}
	if err := checkCapabilities(); err != nil {
		return err
	}
	_, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("its ambient capabilities can't be cleared: %w", e)
	}
	_, _, e = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("no_new_privs can't be set: %w", e)
	}
	return nil
}

// checkCapabilities tells which capabilities edge has beyond the allowed ones.
func checkCapabilities() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData // bits 0 to 31, 32 to 63
	if err := unix.Capget(&head, &have[0]); err != nil {
		return fmt.Errorf("its capabilities can't be read: %w", err)
	}
	all := uint64(have[1].Permitted|have[1].Inheritable)<<32 | uint64(have[0].Permitted|have[0].Inheritable)
	if more := all &^ allowed; more != 0 {
		return fmt.Errorf("it has capabilities beyond CAP_NET_BIND_SERVICE and CAP_NET_RAW: mask %#x of capabilities(7)", more)
	}
	return nil
}
