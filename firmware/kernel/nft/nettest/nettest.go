// Package nettest gives tests network namespaces of their own, each on an OS
// thread that ends with the test. Only tests import it.
package nettest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	TID   int // of its thread; `ip link set DEV netns TID` moves a link there
	calls chan func()
}

// New makes an empty namespace with lo up; it skips the test where that is not
// possible.
func New(t testing.TB) *NS {
	t.Helper()
	ns := &NS{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread, and with it the namespace, ends here.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- err
			return
		}
		ns.TID = unix.Gettid()
		ready <- nil
		for f := range ns.calls {
			f()
		}
	}()
	if err := <-ready; errors.Is(err, unix.EPERM) {
		t.Skip("missing capability: root with network namespaces")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(ns.calls) })
	var err error
	ns.Do(func() {
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(lo)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// Do calls f on the namespace's thread: sockets that it opens are inside.
func (ns *NS) Do(f func()) {
	done := make(chan struct{})
	ns.calls <- func() { defer close(done); f() }
	<-done
}

// Output runs a command inside and returns what it prints.
func (ns *NS) Output(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	ns.Do(func() { err = cmd.Run() })
	return out.String(), err
}

// Run runs commands inside, one a line, and fails the test when one fails.
func (ns *NS) Run(t testing.TB, lines string) string {
	t.Helper()
	var all strings.Builder
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		out, err := ns.Output("", f[0], f[1:]...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.TrimSpace(line), err, out)
		}
		all.WriteString(out)
	}
	return all.String()
}

// Sysctl writes a value below /proc/sys.
func (ns *NS) Sysctl(t testing.TB, key, value string) {
	t.Helper()
	if err := ns.TrySysctl(key, value); err != nil {
		t.Fatalf("sysctl %s: %v", key, err)
	}
}

// TrySysctl is Sysctl for keys that not every kernel has.
func (ns *NS) TrySysctl(key, value string) (err error) {
	// /proc/sys/net is that of the thread that opens it.
	ns.Do(func() { err = os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) })
	return err
}

// Veth joins two namespaces by a pair of links.
func Veth(t testing.TB, a *NS, aName string, b *NS, bName string) {
	t.Helper()
	a.Run(t, "ip link add "+aName+" type veth peer name "+bName+" netns "+strconv.Itoa(b.TID))
	a.Run(t, "ip link set "+aName+" up")
	b.Run(t, "ip link set "+bName+" up")
}

// Need skips the test unless the programs are there.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range append([]string{"ip"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("missing capability: the program %s", p)
		}
	}
}
