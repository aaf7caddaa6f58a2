package sshd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/ssh"
)

func cheapKey(p string) string {
	return base64.RawStdEncoding.EncodeToString(argon2.IDKey([]byte(p), []byte("saltsaltsaltsalt"), 1, 64, 1, 32))
}

type fixture struct {
	*Server
	addr   string
	uptime atomic.Int64
	client ssh.Signer
}

// start serves on 127.0.0.1; sessions say hello and end when their input does.
func start(t *testing.T, c Config, lan bool) *fixture {
	t.Helper()
	f := &fixture{client: signer(t)}
	if c.HostKey == nil {
		c.HostKey = hostKey(t)
	}
	c.Window = 30 * time.Minute
	f.Server = New(Options{
		Log: slog.New(slog.DiscardHandler), Gate: NewGate(time.Now),
		Uptime: func() time.Duration { return time.Duration(f.uptime.Load()) },
		Session: func(ctx context.Context, s *Session) {
			io.WriteString(s, "hello "+s.Command+"\n") //nolint:errcheck // shows in the test
			if s.Command == "size" {
				sized := make(chan struct{})
				s.OnResize(func(w, h int) { fmt.Fprintln(s, w, h); close(sized) })
				w, h, ok := s.PTY()
				fmt.Fprintln(s, w, h, ok)
				<-sized
			}
			if s.Command == "" {
				io.Copy(io.Discard, s) //nolint:errcheck // until the client leaves
			}
			s.Exit(3)
		},
	})
	if err := f.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, ctx, ln, lan) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func hostKey(t *testing.T) []byte {
	t.Helper()
	k, err := NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	s, err := ssh.ParsePrivateKey(hostKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func line(s ssh.Signer) string { return string(ssh.MarshalAuthorizedKey(s.PublicKey())) }

func (f *fixture) dial(user string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", f.addr, &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second})
}

func TestSessionsAndNothingElse(t *testing.T) {
	s := signer(t)
	f := start(t, Config{Claimed: true, Keys: []string{line(s), "damaged"}}, true)
	c, err := f.dial("admin", ssh.PublicKeys(s))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sess.Output("show version")
	var ee *ssh.ExitError
	if string(out) != "hello show version\n" || !errors.As(err, &ee) || ee.ExitStatus() != 3 {
		t.Errorf("command: %q, %v", out, err)
	}
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "forwarded-tcpip", "x11", "tun@openssh.com", "auth-agent@openssh.com"} {
		payload := ssh.Marshal(struct {
			Host string
			Port uint32
			From string
			FP   uint32
		}{"127.0.0.1", 53, "127.0.0.1", 1})
		if _, _, err := c.OpenChannel(kind, payload); err == nil {
			t.Errorf("a %s channel was opened", kind)
		}
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com"} {
		if ok, _, err := c.SendRequest(kind, true, ssh.Marshal(struct {
			Addr string
			Port uint32
		}{"0.0.0.0", 2000})); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	sess, err = c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"subsystem", "auth-agent-req@openssh.com", "x11-req", "env"} {
		if ok, err := sess.SendRequest(kind, true, ssh.Marshal(struct{ Name string }{"sftp"})); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
}

func TestTerminalSize(t *testing.T) {
	s := signer(t)
	f := start(t, Config{Claimed: true, Keys: []string{line(s)}}, true)
	c, err := f.dial("admin", ssh.PublicKeys(s))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sess.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sess.RequestPty("vt100", 0, 100000, nil), sess.Start("size")); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(out)
	for _, want := range []string{"hello size\n", "500 24 true\n"} {
		if l, err := br.ReadString('\n'); err != nil || l != want {
			t.Fatalf("%q, %v; want %q", l, err, want)
		}
	}
	if err := sess.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	if l, err := br.ReadString('\n'); err != nil || l != "132 50\n" {
		t.Errorf("after a resize: %q, %v", l, err)
	}
}

func TestWhoMayLogIn(t *testing.T) {
	s := signer(t)
	f := start(t, Config{Claimed: true, Keys: []string{line(s)}, Password: cheapHash()}, true)
	for _, c := range []struct {
		name, user string
		auth       []ssh.AuthMethod
		ok         bool
	}{
		{"key", "admin", []ssh.AuthMethod{ssh.PublicKeys(s)}, true},
		{"another key", "admin", []ssh.AuthMethod{ssh.PublicKeys(f.client)}, false},
		{"password", "admin", []ssh.AuthMethod{ssh.Password(good)}, true},
		{"wrong password", "admin", []ssh.AuthMethod{ssh.Password("wrong")}, false},
		{"nothing", "admin", nil, false},
		{"root with the key", "root", []ssh.AuthMethod{ssh.PublicKeys(s)}, false},
		{"root with the password", "root", []ssh.AuthMethod{ssh.Password(good)}, false},
	} {
		cl, err := f.dial(c.user, c.auth...)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			cl.Close()
		}
	}
}

func TestUnclaimed(t *testing.T) {
	f := start(t, Config{}, true)
	c, err := f.dial("admin")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.OpenChannel("direct-tcpip", nil); err == nil {
		t.Error("it forwards")
	}
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewSession(); err == nil {
		t.Error("a second session was opened")
	}
	var errs bytes.Buffer
	sess.Stderr = &errs
	if err := sess.Run("show version"); err == nil || strings.Contains(errs.String(), "hello") {
		t.Errorf("a command ran: %v %s", err, errs.String())
	}
	if !strings.Contains(errs.String(), unclaimedText) {
		t.Errorf("it said %q", errs.String())
	}
	if _, err := f.dial("root"); err == nil {
		t.Error("root came in")
	}
	f.uptime.Store(int64(30 * time.Minute))
	c, err = f.dial("admin")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if sess, err = c.NewSession(); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	sess.Stderr = &errs
	if err := sess.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := sess.Wait(); err == nil || strings.TrimSpace(errs.String()) != ClosedText {
		t.Errorf("after the window: %v, %q", err, errs.String())
	}
}

func TestUnclaimedFromTheWAN(t *testing.T) {
	f := start(t, Config{}, false)
	if _, err := f.dial("admin"); err == nil {
		t.Error("an unclaimed router let the WAN in")
	}
}

// TestFlood runs 50 wrong logins at once: at most one hash at a time, all are
// refused, memory stays small, and a key still gets in afterwards.
func TestFlood(t *testing.T) {
	h, err := HashPassword(good, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := signer(t)
	f := start(t, Config{Claimed: true, Keys: []string{line(s)}, Password: h}, true)
	var peak atomic.Uint64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > peak.Load() {
				peak.Store(m.HeapAlloc)
			}
		}
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if c, err := f.dial("admin", ssh.Password("wrong password")); err == nil {
				c.Close()
				t.Error("a wrong password logged in")
			}
		})
	}
	wg.Wait()
	close(stop)
	watch.Wait()
	if mb := peak.Load() >> 20; mb > 30 {
		t.Errorf("the heap grew to %d MiB, 50 clients included", mb)
	}
	var banner string
	_, err = ssh.Dial("tcp", f.addr, &ssh.ClientConfig{User: "admin", Auth: []ssh.AuthMethod{ssh.Password(good)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		BannerCallback: func(m string) error { banner = m; return nil }})
	if err == nil || !strings.HasPrefix(banner, "Too many wrong passwords from 127.0.0.1; try again in ") {
		t.Errorf("the slowed address: %v, %q", err, banner)
	}
	c, err := f.dial("admin", ssh.PublicKeys(s))
	if err != nil {
		t.Fatalf("a key after the flood: %v", err)
	}
	c.Close()
}

// TestSilentConnections holds connections that never log in.
func TestSilentConnections(t *testing.T) {
	f := start(t, Config{Claimed: true, Password: cheapHash()}, true)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	served := 0
	for range 20 {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			served++ // it sent its version
		}
	}
	if served != maxUnauthenticated1 {
		t.Errorf("%d connections of one address are served at once, want %d", served, maxUnauthenticated1)
	}
	for _, c := range held {
		c.Close()
	}
	held = nil
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := f.dial("admin", ssh.Password(good))
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the places are not given back: %v", err)
		}
	}
}

func TestHostKeysDiffer(t *testing.T) {
	if a, b := hostKey(t), hostKey(t); bytes.Equal(a, b) {
		t.Error("two host keys are equal")
	}
}
