package boot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/supervise"
	"github.com/culvert-fw/culvert/firmware/transcript"
)

// limit only catches hangs.
const limit = 60 * time.Second

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

var nsinit = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "culvert-nsinit-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "nsinit")
	cmd := exec.Command("go", "build", "-o", bin, "./testdata/nsinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build of nsinit: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin, err := nsinit(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// machineInBox is an init that runs as PID 1 of its own namespaces.
type machineInBox struct {
	t       *testing.T
	cmd     *exec.Cmd
	console *transcript.Buffer
	root    string // its file system, as seen from here
	dir     string // the folder below it
	ended   chan struct{}
}

// bootInBox starts an init in dir ("" makes one) with flags for nsinit.
func bootInBox(t *testing.T, dir, flags, cmdline string) *machineInBox {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root (to make namespaces)")
	}
	bin, err := nsinit()
	if err != nil {
		t.Fatal(err)
	}
	if dir == "" {
		dir = t.TempDir()
	}
	openTo(t, filepath.Join(dir, "x")) // a service's user must reach what is below
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"nsinit": string(b), "flags": flags, "cmdline": cmdline + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &machineInBox{t: t, console: &transcript.Buffer{}, dir: dir, ended: make(chan struct{})}
	m.cmd = exec.Command(bin, "init", dir)
	m.cmd.Stderr = m.console
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.root = fmt.Sprintf("/proc/%d/root", m.cmd.Process.Pid)
	go func() { defer close(m.ended); _ = m.cmd.Wait() }()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill() // takes the whole namespace with it
		<-m.ended
		if t.Failed() {
			t.Logf("console:\n%s", m.console)
		}
	})
	return m
}

// dial connects to the machine's control socket once it is there.
func (m *machineInBox) dial() *initctl.Client {
	m.t.Helper()
	var c *initctl.Client
	eventually(m.t, "init answers", func() bool {
		select {
		case <-m.ended:
			m.t.Fatal("init has ended")
		default:
		}
		var err error
		c, err = initctl.DialPath(m.root + initctl.Socket)
		return err == nil
	})
	m.t.Cleanup(func() { c.Close() })
	return c
}

// wantEnd waits for the end. In a PID namespace reboot(2) ends PID 1 with
// SIGHUP for a restart and SIGINT for a power-off (reboot_pid_ns in the kernel).
func (m *machineInBox) wantEnd(want syscall.Signal) {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(limit):
		m.t.Fatal("the machine does not go down")
	}
	ws := m.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ws.Signaled() || ws.Signal() != want {
		m.t.Errorf("the machine ended with %v, want signal %v", m.cmd.ProcessState, want)
	}
}

func (m *machineInBox) file(name string) string {
	b, _ := os.ReadFile(m.root + name)
	return string(b)
}

func services(t *testing.T, c *initctl.Client) map[string]supervise.Status {
	t.Helper()
	list, err := c.Services()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]supervise.Status{}
	for _, s := range list {
		byName[s.Name] = s
	}
	return byName
}

func logOf(t *testing.T, c *initctl.Client, name string) string {
	t.Helper()
	lines, err := c.Log(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// hostPid finds the process with a name in argv[1], as seen from here.
func (m *machineInBox) hostPid(role string) int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, _ := os.ReadFile(d + "/cmdline")
		root, _ := os.Readlink(d + "/root")
		if string(b) == "/nsinit\x00"+role+"\x00" && root == m.dir {
			var pid int
			_, _ = fmt.Sscanf(filepath.Base(d), "%d", &pid)
			return pid
		}
	}
	return 0
}

func TestPID1RunsServicesAndReboots(t *testing.T) {
	m := bootInBox(t, "", "", "console=ttyS0 quiet")
	c := m.dial()
	eventually(t, "both run", func() bool {
		s := services(t, c)
		return s["netd"].State == supervise.Running && s["edge"].State == supervise.Running
	})
	if got := m.file("/run/links-at-drop-all"); got != "" {
		t.Errorf("links that were up when the drop-all ruleset was loaded: %s", got)
	}
	rules, err := exec.Command("nsenter", "-t", fmt.Sprint(m.cmd.Process.Pid), "-n", "/usr/sbin/nft", "list", "ruleset").CombinedOutput()
	for _, want := range []string{"table inet culvert {", "hook input priority filter; policy drop;", "hook forward priority filter; policy drop;"} {
		if !strings.Contains(string(rules), want) {
			t.Errorf("the kernel's ruleset lacks %q (%v):\n%s", want, err, rules)
		}
	}
	if got := logOf(t, c, "netd"); !strings.Contains(got, "links=lo") {
		t.Errorf("netd did not find lo up:\n%s", got)
	}
	eventually(t, "edge has tried all", func() bool { return strings.Contains(logOf(t, c, "edge"), "init says") })
	for _, want := range []string{"edge: uid 100 console /dev/console-of-test", "console error: <nil>", "permission denied"} {
		if got := logOf(t, c, "edge"); !strings.Contains(got, want) {
			t.Errorf("edge's log lacks %q:\n%s", want, got)
		}
	}

	first := services(t, c)["netd"].Pid
	edgeBefore := services(t, c)["edge"].Pid
	if err := unix.Kill(m.hostPid("netd"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "netd is back", func() bool {
		s := services(t, c)["netd"]
		return s.State == supervise.Running && s.Pid != first && s.Restarts == 1 && s.LastExit == "killed by SIGKILL"
	})
	if got := services(t, c)["edge"].Pid; got != edgeBefore {
		t.Errorf("edge was restarted too: pid %d, was %d", got, edgeBefore)
	}
	eventually(t, "netd's orphans are collected", func() bool {
		b, _ := exec.Command("ps", "--no-headers", "-o", "stat,args", "--ppid", fmt.Sprint(m.cmd.Process.Pid)).Output()
		return !strings.Contains(string(b), "defunct") && !strings.Contains(string(b), "orphan")
	})

	st, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	if !st.Data.Volatile || st.Board != "namespace" || st.Watchdog != "test" ||
		len(st.Problems) != 1 || !strings.Contains(st.Problems[0], "will not survive a reboot") {
		t.Errorf("status: %+v", st)
	}
	if _, err := c.Log("nobody", 1); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("log of an unknown service: %v", err)
	}
	if err := c.Kill("nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("kill of an unknown service: %v", err)
	}
	if err := c.Kill("edge"); err != nil {
		t.Error(err)
	}
	eventually(t, "edge is back", func() bool { s := services(t, c)["edge"]; return s.Restarts == 1 && s.State == supervise.Running })
	if err := c.FactoryReset(); err == nil {
		t.Error("a factory reset without a disk was accepted")
	}
	if _, err := c.Call(initctl.Request{Op: initctl.OpPanic}); err == nil {
		t.Error("a panic on demand without culvert.test was accepted")
	}
	if err := c.Reboot(); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(unix.SIGHUP)
	out := m.console.String()
	for _, want := range []string{"netd ended (killed by SIGKILL)", "stopping services", "culvert: restart"} {
		if !strings.Contains(out, want) {
			t.Errorf("the console lacks %q:\n%s", want, out)
		}
	}
}

func TestPID1PowersOffOnSignal(t *testing.T) {
	m := bootInBox(t, "", "", "")
	m.dial()
	if err := m.cmd.Process.Signal(unix.SIGHUP); err != nil { // means nothing
		t.Fatal(err)
	}
	if err := m.cmd.Process.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(unix.SIGINT)
}

func TestPID1RestartsAfterItsOwnPanic(t *testing.T) {
	m := bootInBox(t, "", "", "culvert.test")
	c := m.dial()
	if _, err := c.Call(initctl.Request{Op: initctl.OpPanic}); err == nil {
		t.Error("an answer in spite of the panic")
	}
	m.wantEnd(unix.SIGHUP)
	if out := m.console.String(); !strings.Contains(out, "panic in control connection: asked for by a test") {
		t.Errorf("console:\n%s", out)
	}
}

func TestPID1WithoutFirewallStartsServicesAllTheSame(t *testing.T) {
	m := bootInBox(t, "", "no-firewall", "")
	c := m.dial()
	eventually(t, "netd runs", func() bool { return services(t, c)["netd"].State == supervise.Running })
	if got := logOf(t, c, "netd"); !strings.Contains(got, "failed=Firewall: the kernel refuses it.") {
		t.Errorf("netd was not told:\n%s", got)
	}
	if got := logOf(t, c, "netd"); !strings.Contains(got, "links=\n") {
		t.Errorf("a link is up without a firewall:\n%s", got)
	}
	if out := m.console.String(); !strings.Contains(out, "the boot stops here") {
		t.Errorf("console:\n%s", out)
	}
}

func TestPID1KillsAHangingNetdAndFeedsOnlyAHealthyOne(t *testing.T) {
	m := bootInBox(t, "", "", "")
	c := m.dial()
	eventually(t, "netd runs", func() bool { return services(t, c)["netd"].State == supervise.Running })
	eventually(t, "the watchdog is fed", func() bool { return len(m.file("/run/pings")) > 3 })
	if err := unix.Kill(m.hostPid("netd"), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "netd is killed and back", func() bool {
		s := services(t, c)["netd"]
		return s.State == supervise.Running && s.Restarts == 1 && s.LastExit == "killed by SIGKILL"
	})
	// Another one whose netd never answers: the kill does not help.
	m2 := bootInBox(t, "", "deaf", "")
	c2 := m2.dial()
	eventually(t, "init gives up", func() bool {
		return strings.Contains(m2.console.String(), "the watchdog will restart the router")
	})
	if got := services(t, c2)["netd"].Restarts; got != 1 {
		t.Errorf("netd was restarted %d times, want once", got)
	}
	eventually(t, "the next boot will know why", func() bool {
		return strings.Contains(m2.file("/data/last-hang"), "netd had not answered for")
	})
	n := len(m2.file("/run/pings"))
	if n == 0 {
		t.Error("not fed in the grace period")
	}
	before := len(m.file("/run/pings"))
	eventually(t, "the healthy one is fed on", func() bool { return len(m.file("/run/pings")) > before+5 })
	if got := len(m2.file("/run/pings")); got > n+1 {
		t.Errorf("fed %d times after giving up", got-n)
	}
}
