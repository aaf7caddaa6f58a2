package edge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
)

// buildEdge builds the real command, where uid 100 may run it.
func buildEdge(t *testing.T) (exe string) {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("/run", "edge")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	exe = filepath.Join(dir, "edge")
	build := exec.Command("go", "build", "-o", exe, "../../cmd/edge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as on the router
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return exe
}

// as is a command that starts as init starts edge: with this user and these
// capabilities.
func as(uid uint32, caps []uintptr, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, AmbientCaps: caps, Pdeathsig: syscall.SIGKILL}
	return cmd
}

var edgeCaps = []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW}

// TestConfined runs the real command as init does: with its own user and two
// capabilities. What it starts has none.
func TestConfined(t *testing.T) {
	exe := buildEdge(t)
	r := newRig(t, "", time.Minute)
	r.makeKey(t)
	r.Netd.Stop()
	r.Socket = api.Socket
	r.Start(t)
	if err := os.Chown(api.Socket, 100, 100); err != nil {
		t.Fatal(err)
	}
	r.SetConfig(func(c *api.EdgeConfig) { c.SSHPort = 23 }) // beside the rig's own
	r.Edit(t, api.Author{}, "system", "admin", "keys", r.key)
	cmd := as(100, edgeCaps, exe)
	cmd.Stderr = testLog{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("edge ended with %v", err)
		}
	}()
	await(t, "ssh listens", func() bool { return listening("192.168.1.1:23") })
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(own), "CapPrm:\t0000000000002400", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1")
	out, err := r.run(t, "", "", "-p", "23", "admin@192.168.1.1", "toolbox cat /proc/self/status")
	if err != nil {
		t.Fatal(err, out)
	}
	has(t, out, "Uid:\t100", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1")
	out, err = r.run(t, "", "", "-p", "23", "admin@192.168.1.1", "ping 192.168.1.1 1; ping printer 1")
	if err != nil {
		t.Error(err)
	}
	has(t, out, "1: answer from 192.168.1.1", "1: answer from 192.168.1.10") // all of lo's subnet answers
}

// TestRefusesUnconfined starts the real command where it can't be confined: it
// ends with status 1 and says why.
func TestRefusesUnconfined(t *testing.T) {
	exe := buildEdge(t)
	r := newRig(t, "", time.Minute)
	r.Netd.Stop()
	r.Socket = api.Socket
	r.Start(t)
	if err := os.Chown(api.Socket, 100, 100); err != nil {
		t.Fatal(err)
	}
	r.SetConfig(func(c *api.EdgeConfig) { c.SSHPort = 23 })
	self, err := os.ReadFile("/proc/self/exe") // as a file that uid 100 may run
	if err != nil {
		t.Fatal(err)
	}
	me := filepath.Join(filepath.Dir(exe), "me")
	if err := os.WriteFile(me, self, 0o755); err != nil {
		t.Fatal(err)
	}
	denied := func(option string) *exec.Cmd {
		cmd := as(100, edgeCaps, me)
		cmd.Env = []string{execEdge + "=" + exe, denyOption + "=" + option}
		return cmd
	}
	for _, c := range []struct {
		name string
		cmd  *exec.Cmd
		want string
	}{
		{"root", as(0, nil, exe), "it runs as root"},
		{"one capability too many", as(100, append([]uintptr{unix.CAP_NET_ADMIN}, edgeCaps...), exe), "mask 0x1000 of capabilities(7)"},
		{"ambient capabilities stay", denied(fmt.Sprint(unix.PR_CAP_AMBIENT)), "ambient capabilities can't be cleared: operation not permitted"},
		{"new privileges stay possible", denied(fmt.Sprint(unix.PR_SET_NO_NEW_PRIVS)), "no_new_privs can't be set: operation not permitted"},
	} {
		var out bytes.Buffer
		c.cmd.Stdout, c.cmd.Stderr = &out, &out
		if err := c.cmd.Start(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		kill := time.AfterFunc(10*time.Second, func() { c.cmd.Process.Kill() }) //nolint:errcheck // it may have ended
		err := c.cmd.Wait()
		var ee *exec.ExitError
		if !kill.Stop() {
			t.Errorf("%s: edge served", c.name)
		} else if !errors.As(err, &ee) || ee.ExitCode() != 1 || !strings.Contains(out.String(), c.want) || !strings.Contains(out.String(), "refuses to serve") {
			t.Errorf("%s: %v, and it said: %s", c.name, err, out.String())
		}
	}
}

// execDenied makes this process an edge to whom seccomp denies a prctl option,
// as the environment says. It returns only with an error.
func execDenied(exe string) error {
	var option uint32
	if _, err := fmt.Sscan(os.Getenv(denyOption), &option); err != nil {
		return err
	}
	if err := denyPrctl(option); err != nil {
		return err
	}
	return syscall.Exec(exe, []string{exe}, nil)
}

// denyPrctl makes prctl(option) fail with EPERM in this process, for good.
func denyPrctl(option uint32) error {
	low := uint32(16) // args[0] of struct seccomp_data
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low += 4
	}
	stmt := func(code uint16, k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k}
	}
	filter := []unix.SockFilter{
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0), // nr
		stmt(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_PRCTL, 0, 3),
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, low, 0, 0),
		stmt(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, option, 0, 1),
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM), 0, 0),
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW, 0, 0),
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return installFilter(filter)
}

// installFilter sets a seccomp filter for all threads.
func installFilter(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}
