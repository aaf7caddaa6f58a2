// Package lab is a router in QEMU between a home and an Internet: the router's
// image as it would be flashed, LAN hosts and VPN servers in user-mode Linux,
// and the test itself as one more machine on either side. Everything lives in
// one network namespace, which goes with the test.
package lab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace of the host with a name for `ip netns`.
type Namespace struct{ Name string }

var namespaces atomic.Int32

// NewNamespace makes an empty namespace; it needs root.
func NewNamespace() (*Namespace, error) {
	ns := &Namespace{Name: fmt.Sprintf("culvert-%d-%d", os.Getpid(), namespaces.Add(1))}
	if err := run("ip", "netns", "add", ns.Name); err != nil {
		return nil, err
	}
	return ns, ns.Exec("ip", "link", "set", "lo", "up")
}

// Close removes the namespace with all its links.
func (ns *Namespace) Close() error { return run("ip", "netns", "del", ns.Name) }

// Exec runs a program inside to its end.
func (ns *Namespace) Exec(argv ...string) error {
	return run(append([]string{"ip", "netns", "exec", ns.Name}, argv...)...)
}

// Do calls f on a thread inside the namespace; sockets and processes that f
// makes stay there.
func (ns *Namespace) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() { errc <- ns.do(f) }()
	return <-errc
}

func (ns *Namespace) do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + ns.Name)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return back // the thread stays locked and dies with this goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// Dial connects from inside the namespace.
func (ns *Namespace) Dial(d net.Dialer, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = d.Dial(network, addr)
		return err
	})
	return c, err
}

func run(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}
