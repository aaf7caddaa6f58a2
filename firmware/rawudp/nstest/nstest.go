// Package nstest lets tests run against other people's DHCP and NTP programs
// in network namespaces of their own. Only tests import it.
package nstest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/transcript"
)

const inside = "CULVERT_TEST_NETNS"

// Main runs all tests of a package in a fresh network namespace when it may
// make one, so that no test can touch the machine's network.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		os.Exit(m.Run()) // no namespaces here: Require skips what needs them
	}
	if err := cmd.Wait(); err != nil {
		os.Exit(max(cmd.ProcessState.ExitCode(), 1))
	}
	os.Exit(0)
}

// Require skips the test unless it runs in its own network namespace and the
// programs are there.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("missing capability: root with network namespaces")
	}
	for _, p := range append([]string{"ip"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("missing capability: the program %s", p)
		}
	}
}

// IP runs one ip command a line in this namespace.
func IP(t testing.TB, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

// Peer is another network namespace.
type Peer struct {
	t   testing.TB
	pid int
}

// NewPeer makes a namespace whose interface peerName is joined to the
// interface name here by a veth; both are up. It goes with the test.
func NewPeer(t testing.TB, name, peerName string) *Peer {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		// The namespace goes some time after its last process, the veth with it.
		exec.Command("ip", "link", "del", name).Run()
	})
	p := &Peer{t: t, pid: cmd.Process.Pid}
	IP(t, fmt.Sprintf("link add %s type veth peer name %s netns %d\nlink set %s up", name, peerName, p.pid, name))
	p.Run("ip", "link", "set", "lo", "up")
	p.Run("ip", "link", "set", peerName, "up")
	waitUp(t, func() string { return p.Run("ip", "-o", "link", "show", "dev", peerName) })
	WaitUp(t, name)
	return p
}

// WaitUp waits until an interface here passes frames: the kernel sets up its
// queue some time after its carrier, and drops what is sent before.
func WaitUp(t testing.TB, name string) {
	t.Helper()
	waitUp(t, func() string {
		out, _ := exec.Command("ip", "-o", "link", "show", "dev", name).CombinedOutput()
		return string(out)
	})
}

func waitUp(t testing.TB, show func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(15 * time.Second)
	for {
		out := show()
		if strings.Contains(out, "state UP") {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("the link does not come up: %s", out)
		}
	}
}

func (p *Peer) command(args []string) *exec.Cmd {
	args = append([]string{"-t", fmt.Sprint(p.pid), "-n", "--"}, args...)
	return exec.Command("nsenter", args...)
}

// Run runs a program in the peer to its end and returns what it printed.
func (p *Peer) Run(args ...string) string {
	p.t.Helper()
	out, err := p.command(args).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Daemon is a program that runs in a peer.
type Daemon struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	done chan struct{}
	out  transcript.Buffer
	more chan struct{}
}

// Start starts a program in the peer; it has to stay in the foreground. It is
// stopped with the test at the latest.
func (p *Peer) Start(args ...string) *Daemon {
	p.t.Helper()
	d := &Daemon{t: p.t, name: args[0], cmd: p.command(args), done: make(chan struct{}), more: make(chan struct{}, 1)}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pr, pw := io.Pipe()
	d.cmd.Stdout, d.cmd.Stderr = pw, pw
	if err := d.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go d.read(pr)
	go func() {
		d.cmd.Wait()
		pw.Close()
		close(d.done)
	}()
	p.t.Cleanup(func() {
		d.Stop()
		if p.t.Failed() {
			p.t.Logf("output of %s:\n%s", d.name, d.Output())
		}
	})
	return d
}

func (d *Daemon) read(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		d.out.Write(buf[:n])
		select {
		case d.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Output is everything printed so far.
func (d *Daemon) Output() string { return d.out.String() }

// Expect waits until the program has printed the text after the given offset
// of its output, and returns the offset behind it.
func (d *Daemon) Expect(offset int, text string) int {
	d.t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		out := d.Output()
		if i := strings.Index(out[min(offset, len(out)):], text); i >= 0 {
			return offset + i + len(text)
		}
		select {
		case <-d.more:
		case <-timeout:
			d.t.Fatalf("%s does not print %q; it printed:\n%s", d.name, text, out)
		}
	}
}

// Done is closed when the program has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Signal sends a signal.
func (d *Daemon) Signal(s os.Signal) { d.cmd.Process.Signal(s) }

// Stop ends the program and waits for that.
func (d *Daemon) Stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(3 * time.Second):
		d.cmd.Process.Kill()
		<-d.done
	}
}
