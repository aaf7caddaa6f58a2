package netd

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

// within runs f, which makes sockets, in a peer's network namespace.
func within(t *testing.T, p *nstest.Peer, f func() error) {
	t.Helper()
	sh := p.Start("sh", "-c", "echo $$; exec sleep 60")
	defer sh.Stop()
	end := sh.Expect(0, "\n") - 1
	pid := sh.Output()[:end]
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ferr := f()
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err) // this thread must not run anything else
	}
	if ferr != nil {
		t.Fatal(ferr)
	}
}

// TestEnded: who takes a port forward away ends its connections, and no packet
// of the server on the LAN brings one back.
func TestEnded(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10")
	s, base := r.candidate("firewall forward web protocol tcp port 8080 to 192.168.1.10")
	if _, err := r.commit(base, s, 0); err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	within(t, r.pc, func() (err error) {
		ln, err = net.Listen("tcp4", "192.168.1.10:8080")
		return err
	})
	defer ln.Close()
	wan := netip.AddrPortFrom(r.status().WAN.Address.Addr(), 8080).String()
	var client net.Conn
	within(t, r.isp, func() (err error) {
		client, err = net.DialTimeout("tcp4", wan, 10*time.Second)
		return err
	})
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	hear := func(wait time.Duration) (string, error) {
		b := make([]byte, 100)
		client.SetReadDeadline(time.Now().Add(wait))
		n, err := client.Read(b)
		return string(b[:n]), err
	}
	if _, err := server.Write([]byte("while open")); err != nil {
		t.Fatal(err)
	}
	if text, err := hear(10 * time.Second); text != "while open" {
		t.Fatalf("through the forward: %q, %v", text, err)
	}
	// A restart of netd ends nothing.
	r.stop()
	r.start()
	r.online()
	if _, err := server.Write([]byte("after the restart")); err != nil {
		t.Fatal(err)
	}
	if text, err := hear(10 * time.Second); text != "after the restart" {
		t.Errorf("after a restart of netd: %q, %v", text, err)
	}
	s, base = r.candidate()
	delete(s.Firewall.Forwards, "web")
	if _, err := r.commit(base, s, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	// Long enough for several retransmissions.
	if text, err := hear(3 * time.Second); !errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(text, "late") {
		t.Errorf("the connection goes on after its forward was taken away: %q, %v", text, err)
	}
}
