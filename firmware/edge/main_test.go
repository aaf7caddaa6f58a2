package edge

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/sshd"
)

const (
	inNamespace = "CULVERT_TEST_NAMESPACE"
	execEdge    = "CULVERT_TEST_EXEC" // see execDenied
	denyOption  = "CULVERT_TEST_DENY"
)

// TestMain runs the tests in network and mount namespaces of their own, where
// lo is the LAN, /run is empty and port 53 is free.
func TestMain(m *testing.M) {
	if exe := os.Getenv(execEdge); exe != "" {
		fmt.Fprintln(os.Stderr, execDenied(exe))
		os.Exit(2)
	}
	if os.Getenv(inNamespace) == "" && os.Getuid() == 0 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			if ee, ok := err.(*exec.ExitError); ok {
				os.Exit(ee.ExitCode())
			}
			fmt.Fprintln(os.Stderr, "namespaces:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(inNamespace) != "" {
		for _, step := range []func() error{
			func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
			func() error { return unix.Mount("tmpfs", "/run", "tmpfs", 0, "") },
			func() error { return os.Mkdir("/run/culvert", 0o755) },
			func() error { return ip("link", "set", "lo", "up") },
			func() error { return ip("addr", "add", "192.168.1.1/24", "dev", "lo") },
		} {
			if err := step(); err != nil {
				fmt.Fprintln(os.Stderr, "namespace:", err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: CAP_SYS_ADMIN for namespaces and CAP_NET_RAW to bind to an interface")
	}
}

func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skip("needs the command " + tool)
	}
}

// rig is an edge with a netd in memory, on lo.
type rig struct {
	*apitest.Netd
	edge    *Edge
	keyFile string
	key     string // authorized_keys line
	home    string
}

func newRig(t *testing.T, console string, uptime time.Duration) *rig {
	t.Helper()
	needRoot(t)
	r := &rig{Netd: apitest.New(t), home: t.TempDir()}
	r.Now = time.Now
	hostKey, err := sshd.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Answers[api.MethodVersion] = api.Version{Culvert: "0.1", Board: "test"}
	r.Start(t)
	r.SetConfig(func(c *api.EdgeConfig) {
		*c = api.EdgeConfig{Board: "test", LANDevice: "lo", LANAddress: netip.MustParsePrefix("192.168.1.1/24"),
			SSHPort: 22, HostKey: hostKey, ClaimWindow: 30 * time.Minute, WANDevice: "none", CacheSize: 100,
			Names: []api.Name{{Name: "printer", Addr: netip.MustParseAddr("192.168.1.10")}}}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	r.edge = New(Options{Socket: r.Socket, Console: console, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Uptime: func() time.Duration { return uptime }, Ready: func() { close(ready) }})
	done := make(chan struct{})
	go func() { defer close(done); r.edge.Run(ctx) }() //nolint:errcheck // ends with ctx
	t.Cleanup(func() { cancel(); <-done })
	await(t, "edge has a configuration", func() bool {
		select {
		case <-ready:
			return true
		default:
			return false
		}
	})
	await(t, "ssh listens", func() bool { return listening("192.168.1.1:22") })
	return r
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) { l.t.Logf("%s", p); return len(p), nil }

// await polls until ok, at most 20 s.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

// makeKey makes an SSH key pair with ssh-keygen.
func (r *rig) makeKey(t *testing.T) {
	t.Helper()
	need(t, "ssh-keygen")
	r.keyFile = filepath.Join(r.home, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@home", "-f", r.keyFile).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	b, err := os.ReadFile(r.keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	r.key = strings.TrimSpace(string(b))
}

// ownByKey makes a key pair and claims the router with it.
func (r *rig) ownByKey(t *testing.T) {
	t.Helper()
	r.makeKey(t)
	r.Edit(t, api.Author{}, "system", "admin", "keys", r.key)
	await(t, "the key reaches edge", func() bool { return r.edge.cfg.Load().Claimed })
}

// ssh is the OpenSSH client as user admin. password is answered by askpass.
func (r *rig) ssh(t *testing.T, password string, args ...string) *exec.Cmd {
	t.Helper()
	need(t, "ssh")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	all := []string{"-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + filepath.Join(r.home, "known"),
		"-o", "IdentitiesOnly=yes", "-o", "NumberOfPasswordPrompts=1", "-o", "LogLevel=ERROR"}
	if r.keyFile != "" {
		all = append(all, "-i", r.keyFile)
	}
	cmd := exec.CommandContext(ctx, "ssh", append(all, args...)...)
	ask := filepath.Join(r.home, "askpass")
	if err := os.WriteFile(ask, []byte("#!/bin/sh\necho '"+password+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force", "HOME="+r.home, "SSH_AUTH_SOCK=")
	return cmd
}

// run runs the client and returns all it printed.
func (r *rig) run(t *testing.T, password, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := r.ssh(t, password, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// talk is a conversation with a program or a terminal.
type talk struct {
	t  *testing.T
	w  io.Writer
	mu sync.Mutex
	b  strings.Builder
	at int
}

func newTalk(t *testing.T, r io.Reader, w io.Writer) *talk {
	k := &talk{t: t, w: w}
	go func() {
		p := make([]byte, 4096)
		for {
			n, err := r.Read(p)
			k.mu.Lock()
			k.b.Write(p[:n])
			k.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return k
}

// expect waits for text after what was expected before.
func (k *talk) expect(text string) {
	k.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		s := k.b.String()[k.at:]
		i := strings.Index(s, text)
		if i >= 0 {
			k.at += i + len(text)
		}
		k.mu.Unlock()
		if i >= 0 {
			return
		}
	}
	k.t.Fatalf("no %q; so far:\n%s", text, k.seen())
}

// seen is all that was shown so far.
func (k *talk) seen() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.String()
}

func (k *talk) send(text string) {
	k.t.Helper()
	if _, err := io.WriteString(k.w, text); err != nil {
		k.t.Fatal(err)
	}
}

// startTalk starts an interactive client.
func (r *rig) startTalk(t *testing.T, password string, args ...string) *talk {
	t.Helper()
	cmd := r.ssh(t, password, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = testLog{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // ended either way
	return newTalk(t, out, in)
}
