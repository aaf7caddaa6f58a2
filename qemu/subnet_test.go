package qemu

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// TestSubnetGateway: c1 has an IPsec tunnel to the office. c2 and c3 have no
// IPsec; c2 takes the route that DHCP offers, c3 knows its router alone.
func TestSubnetGateway(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	l.Online()
	gateway, lan := l.C[0], "192.168.1.0/24"
	via := l.Lease(gateway)
	l.Commit("set passthrough ipsec subnet " + lab.OfficeSubnet + " via " + via)
	l.LeaseRoutes(l.C[1])
	l.Lease(l.C[2])
	l.Office(l.S2, lab.Server2, lan)
	pluto := l.Gateway(gateway, lab.Server2, lan)
	if routes := l.Sh(l.C[1], "ip route"); !strings.Contains(routes, lab.OfficeSubnet+" via "+via) || !strings.Contains(routes, "default via 192.168.1.1") {
		t.Errorf("a device that takes option 121 has the routes\n%s", routes)
	}
	if routes := l.Sh(l.C[2], "ip route"); strings.Contains(routes, lab.OfficeSubnet) {
		t.Errorf("a device that does not ask for option 121 has the routes\n%s", routes)
	}
	for _, h := range l.C[1:] {
		atOffice(t, h)
	}
	if route := l.Sh(l.C[2], "ip route get "+lab.OfficeHost); !strings.Contains(route, "via 192.168.1.1") {
		t.Errorf("somebody redirected the device: %s", route)
	}
	var all []api.Connection
	if err := l.Show("connections", &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Dst.Addr().String() == lab.OfficeHost {
			t.Errorf("the router tracks half of a connection: %+v", c)
		}
	}

	// Without the tunnel nothing for the office goes to the Internet instead.
	pluto.Signal(9)
	l.Sh(gateway, "ip xfrm state flush; ip xfrm policy flush; ip route add blackhole "+lab.OfficeSubnet)
	capture := l.Capture(l.ISP)
	l.Sh(l.C[2], "ping -n -c 1 -W 5 "+lab.Server1)
	for _, h := range l.C[1:] {
		if out, err := h.Run(20*time.Second, "ping", "-n", "-c", "3", "-W", "1", lab.OfficeHost); err == nil {
			t.Errorf("%s reaches the office without a tunnel:\n%s", h.Name, out)
		}
	}
	seen := map[string]int{}
	for _, f := range capture.Stop() {
		if len(f.Data) >= 34 { // Ethernet and IPv4 headers
			seen[netip.AddrFrom4([4]byte(f.Data[30:34])).String()]++
		}
	}
	if seen[lab.OfficeHost] > 0 || seen[lab.Server1] == 0 {
		t.Errorf("in the Internet are packets to %v, want some to %s and none to %s", seen, lab.Server1, lab.OfficeHost)
	}
}

// atOffice wants a host of the office to answer, and two megabytes to go there
// and back.
func atOffice(t *testing.T, h *peers.Host) {
	t.Helper()
	out, err := h.Run(30*time.Second, "ping", "-n", "-c", "5", "-i", "0.2", "-w", "20", lab.OfficeHost)
	if err != nil {
		t.Errorf("%s: %v\n%s", h.Name, err, out)
	}
	const size = 2_000_000
	out, err = h.Shell(90*time.Second, fmt.Sprintf("head -c %d /dev/zero | nc -N -w 30 %s 7 | wc -c", size, lab.OfficeHost))
	if err != nil || strings.TrimSpace(out) != fmt.Sprint(size) {
		t.Errorf("%s: %s of %d bytes came back from the office, %v", h.Name, strings.TrimSpace(out), size, err)
	}
}
