package boot

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
)

// controlled serves a machine without services on a control socket.
func controlled(t *testing.T) (*machine, string) {
	t.Helper()
	var out bytes.Buffer
	m := quietMachine(&out)
	m.quiet.Store(true)
	dir := t.TempDir()
	m.o.Socket = filepath.Join(dir, "init.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.serveControl(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	eventually(t, "the socket is there", func() bool { _, err := os.Stat(m.o.Socket); return err == nil })
	return m, m.o.Socket
}

func TestControlSocketIsForRootAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root (to become uid 100)")
	}
	bin, err := nsinit()
	if err != nil {
		t.Fatal(err)
	}
	_, sock := controlled(t)
	st, err := os.Stat(sock)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", st.Mode(), err)
	}
	// Should the mode ever be wrong, the kernel's word on the peer still counts.
	for _, p := range []string{bin, sock} {
		openTo(t, p)
	}
	if err := os.Chmod(sock, 0o666); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{0: "services: <nil>", 100: "services: init: services:"} {
		cmd := exec.Command(bin, "ask", sock)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Dir = "/"
		if out, err := cmd.CombinedOutput(); !strings.Contains(string(out), want) {
			t.Errorf("uid %d: %q (%v), want %q", uid, out, err, want)
		}
	}
}

// openTo lets everybody reach what is below the folders of path.
func openTo(t *testing.T, path string) {
	t.Helper()
	for d := filepath.Dir(path); len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestControlSocketSurvivesNonsense(t *testing.T) {
	m, sock := controlled(t)
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 4096)
	for _, tc := range []struct{ in, want string }{
		{"garbage\n", "not a request"},
		{`{"id":7,"op":"dance"}` + "\n", `{"id":7,"error":"unknown operation \"dance\""}`},
		{`{"id":8,"op":"log","name":"init","lines":-5}` + "\n", `{"id":8`},
	} {
		if _, err := c.Write([]byte(tc.in)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), tc.want) {
			t.Errorf("%q is answered %q (%v), want %q", tc.in, buf[:n], err, tc.want)
		}
	}
	// A line without an end costs the connection, not memory.
	if _, err := c.Write(bytes.Repeat([]byte("x"), 2*maxRequest)); err == nil {
		if n, err := c.Read(buf); err == nil {
			t.Errorf("an endless line is answered %q", buf[:n])
		}
	}
	cl, err := initctl.DialPath(sock)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.Poweroff(); err != nil {
		t.Fatal(err)
	}
	if r := <-m.requests; r.kind != poweroff {
		t.Errorf("the request is a %s", r.kind)
	}
}
