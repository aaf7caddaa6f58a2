package dhcp4d

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// serve runs the server on lan0 and returns it with its list of leases.
func serve(t *testing.T) (*Server, <-chan []Lease) {
	t.Helper()
	nstest.IP(t, "addr add 192.168.1.1/24 dev lan0")
	c := config()
	c.Interface = "lan0"
	changes := make(chan []Lease, 100)
	s, err := New(Options{Config: c, OnChange: func(l []Lease) { changes <- l }, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	next(t, changes, 0) // listens when it has told about the empty list
	return s, changes
}

// next waits for a list of n leases.
func next(t *testing.T, changes <-chan []Lease, n int) []Lease {
	t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		select {
		case l := <-changes:
			if len(l) == n {
				return l
			}
		case <-timeout:
			t.Fatalf("no list of %d leases", n)
		}
	}
}

// move renumbers the LAN under running clients.
func move(t *testing.T, s *Server) {
	t.Helper()
	c := config()
	c.Interface = "lan0"
	c.Router, c.PoolStart, c.PoolEnd = netip.MustParsePrefix("192.168.77.1/24"), ip("192.168.77.100"), ip("192.168.77.249")
	nstest.IP(t, "addr add 192.168.77.1/24 dev lan0") // the old one goes later, as on the router
	if err := s.SetConfig(c); err != nil {
		t.Fatal(err)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUdhcpc(t *testing.T) {
	nstest.Require(t, "udhcpc")
	peer := nstest.NewPeer(t, "lan0", "cli0")
	s, changes := serve(t)
	sh := script(t, `echo "$1 $ip $mask $router $dns $domain $lease $serverid"
[ -n "$ip" ] && ip addr flush dev cli0 && ip addr add $ip/$mask dev cli0
exit 0
`)
	c := peer.Start("udhcpc", "-f", "-i", "cli0", "-s", sh, "-F", "toaster", "-R")
	l := next(t, changes, 1)[0]
	if l.Hostname != "toaster" {
		t.Errorf("name %q, want toaster", l.Hostname)
	}
	at := c.Expect(0, "bound "+l.Addr.String()+" 24 192.168.1.1 192.168.1.1 lan 3600 192.168.1.1")
	c.Signal(syscall.SIGUSR1) // renew
	at = c.Expect(at, "renew "+l.Addr.String())

	// The LAN moves: the client is refused and gets the same host number.
	move(t, s)
	c.Signal(syscall.SIGUSR1)
	b := l.Addr.As4()
	b[2] = 77
	c.Expect(at, "bound "+netip.AddrFrom4(b).String()+" 24 192.168.77.1 192.168.77.1 lan 3600 192.168.77.1")

	c.Stop() // with -R: release
	next(t, changes, 0)
}

func TestDhclient(t *testing.T) {
	nstest.Require(t, "dhclient")
	peer := nstest.NewPeer(t, "lan0", "cli0")
	_, changes := serve(t)
	dir := t.TempDir()
	sh := script(t, `echo "$reason $new_ip_address $new_subnet_mask $new_routers $new_domain_name_servers $new_domain_name $new_dhcp_lease_time"
[ -n "$new_ip_address" ] && ip addr flush dev cli0 && ip addr add $new_ip_address/24 dev cli0
exit 0
`)
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte("send host-name \"desk\";\nsend dhcp-client-identifier 1:2:3:4;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"dhclient", "-d", "-sf", sh, "-cf", conf, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "cli0"}
	c := peer.Start(args...)
	l := next(t, changes, 1)[0]
	if l.Hostname != "desk" || len(l.ClientID) != 4 {
		t.Errorf("name %q, client identifier %v; want desk and 4 bytes", l.Hostname, l.ClientID)
	}
	at := c.Expect(0, "BOUND "+l.Addr.String()+" 255.255.255.0 192.168.1.1 192.168.1.1 lan 3600")
	c.Expect(at, "renewal in") // the lease file is written

	// Again from its lease file: INIT-REBOOT.
	c.Signal(syscall.SIGKILL)
	<-c.Done()
	c = peer.Start(args...)
	c.Expect(0, "REBOOT "+l.Addr.String())

	// Given back.
	c.Signal(syscall.SIGKILL)
	<-c.Done()
	peer.Run(append([]string{"dhclient", "-r"}, args[2:]...)...)
	next(t, changes, 0)
}
