package dhcp4c

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// dnsmasq starts a DHCP server with a pool of one address.
func dnsmasq(p *nstest.Peer, dir, pool string) *nstest.Daemon {
	d := p.Start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=srv0", "--bind-interfaces",
		"--log-dhcp", "--no-ping", "--dhcp-authoritative", "--pid-file="+filepath.Join(dir, "pid"),
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--dhcp-range="+pool+","+pool+",255.255.255.0,10m",
		"--dhcp-option=option:mtu,1492", "--dhcp-option=option:domain-name,example.net",
		"--dhcp-option=option:classless-static-route,198.51.100.0/24,192.0.2.2,0.0.0.0/0,192.0.2.1",
		"--dhcp-option=option:dns-server,192.0.2.53")
	d.Expect(0, "sockets bound exclusively to interface srv0")
	return d
}

type real struct {
	t       *testing.T
	c       *Client
	emitted chan *Lease
	stop    func()
}

func run(t *testing.T, previous *Lease) *real {
	t.Helper()
	ifi, err := net.InterfaceByName("wan0")
	if err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, emitted: make(chan *Lease, 16)}
	r.c, err = New(Options{
		Interface: "wan0", HWAddr: ifi.HardwareAddr, Hostname: "culvert", Previous: previous,
		Emit: func(l *Lease) { r.emitted <- l }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.c.Run(ctx) }()
	r.stop = func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	return r
}

func (r *real) next() *Lease {
	r.t.Helper()
	select {
	case l := <-r.emitted:
		return l
	case <-time.After(15 * time.Second):
		r.t.Fatalf("nothing emitted; status %+v", r.c.Status())
	}
	return nil
}

func TestDnsmasq(t *testing.T) {
	nstest.Require(t, "dnsmasq")
	dir := t.TempDir()
	peer := nstest.NewPeer(t, "wan0", "srv0")
	peer.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "srv0")
	server := dnsmasq(peer, dir, "192.0.2.77")

	r := run(t, nil)
	defer func() { r.stop() }()
	l := r.next()
	if l == nil {
		t.Fatal("lost before it was got")
	}
	want := &Lease{
		Addr: netip.MustParsePrefix("192.0.2.77/24"), Router: netip.MustParseAddr("192.0.2.1"),
		Routes: []Route{
			{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("192.0.2.2")},
			{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.1")},
		},
		DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Domain: "example.net", MTU: 1492,
		Server: netip.MustParseAddr("192.0.2.1"), T1: 5 * time.Minute, T2: 525 * time.Second, Expiry: 10 * time.Minute,
	}
	if diff := cmp.Diff(want, l, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(Lease{}, "Acquired")); diff != "" {
		t.Errorf("lease (-want +got):\n%s", diff)
	}

	// Renewal: by unicast, once the address is set, as its owner does.
	nstest.IP(t, "addr add 192.0.2.77/24 dev wan0")
	at := len(server.Output())
	r.c.Renew()
	if l = r.next(); l == nil || l.Addr != want.Addr {
		t.Fatalf("renewal got %+v", l)
	}
	at = server.Expect(at, "client provides name: culvert")
	server.Expect(at, "DHCPACK(srv0) 192.0.2.77")

	// The same after a restart: INIT-REBOOT, no DISCOVER.
	r.stop()
	at = len(server.Output())
	r = run(t, l)
	if l = r.next(); l == nil || l.Addr != want.Addr {
		t.Fatalf("INIT-REBOOT got %+v", l)
	}
	if out := server.Output()[at:]; strings.Contains(out, "DHCPDISCOVER") {
		t.Errorf("INIT-REBOOT sent DISCOVER:\n%s", out)
	}

	// The provider renumbers: NAK, then an address of the new pool.
	server.Stop()
	if err := os.Remove(filepath.Join(dir, "leases")); err != nil {
		t.Fatal(err)
	}
	server = dnsmasq(peer, dir, "192.0.2.99")
	r.c.Renew()
	if l = r.next(); l != nil {
		t.Fatalf("after renumbering got %v, want the loss first", l.Addr)
	}
	if l = r.next(); l == nil || l.Addr.String() != "192.0.2.99/24" {
		t.Fatalf("after renumbering got %+v", l)
	}
	server.Expect(0, "DHCPNAK(srv0) 192.0.2.77")

	nstest.IP(t, "addr flush dev wan0\naddr add 192.0.2.99/24 dev wan0")
	if err := r.c.Release(); err != nil {
		t.Fatal(err)
	}
	if l = r.next(); l != nil {
		t.Fatalf("after Release got %v", l.Addr)
	}
	server.Expect(0, "DHCPRELEASE(srv0) 192.0.2.99")
}

// TestAddressInUse: the offered address is another host's, so that the
// client declines it, and takes the next one.
func TestAddressInUse(t *testing.T) {
	nstest.Require(t, "dnsmasq")
	dir := t.TempDir()
	peer := nstest.NewPeer(t, "wan0", "srv0")
	peer.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "srv0")
	server := dnsmasq(peer, dir, "192.0.2.77")
	host := nstest.NewPeer(t, "port1", "host0")
	host.Run("ip", "addr", "add", "192.0.2.77/24", "dev", "host0")
	// wan0 becomes a bridge with the server behind one port and the host
	// behind another.
	nstest.IP(t, `link set wan0 name uplink
		link add wan0 type bridge
		link set uplink master wan0
		link set port1 master wan0
		link set uplink up
		link set port1 up
		link set wan0 up`)
	nstest.WaitUp(t, "wan0")
	t.Cleanup(func() { nstest.IP(t, "link del wan0\nlink set uplink name wan0") })

	r := run(t, nil)
	defer r.stop()
	server.Expect(0, "DHCPDECLINE(srv0) 192.0.2.77")
	if p := r.c.Status().Problem; !strings.Contains(p, "192.0.2.77 is granted") {
		t.Errorf("problem %q, want that the address is in use", p)
	}
}
