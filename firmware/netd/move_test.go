package netd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func (r *testRouter) script(text string) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// TestUnsettled: until the WAN's first lease, which may make the LAN move, a LAN
// client gets a short lease, and a long one after it, also after a restart
// without an uplink.
func TestUnsettled(t *testing.T) {
	nstest.Require(t, "udhcpc")
	r := newRouter(t, "")
	sh := r.script(`echo "$1 $lease"
[ -n "$ip" ] && ip addr flush dev pc0 && ip addr add $ip/$mask dev pc0
exit 0
`)
	c := r.pc.Start("udhcpc", "-f", "-i", "pc0", "-s", sh)
	at := c.Expect(0, "bound 120")
	r.provide("203.0.113")
	r.online()
	renew := func() (lease string) {
		c.Signal(syscall.SIGUSR1)
		from := c.Expect(at, "\nrenew ")
		at = c.Expect(from, "\n") - 1
		return c.Output()[from:at]
	}
	r.until("the lease time of the settings", func() error {
		if lease := renew(); lease != "43200" {
			return errors.New("lease of " + lease)
		}
		return nil
	})
	r.uplink.Stop()
	r.stop()
	r.start()
	r.lease()
	if lease := renew(); lease != "43200" {
		t.Errorf("after the restart a lease of %s", lease)
	}
}

// TestMoveIsNoticed: a LAN that moves while its devices have leases of hours
// takes their link away for a moment, and who asks for its old address then, as
// devices do, is refused and gets one of the new network.
func TestMoveIsNoticed(t *testing.T) {
	nstest.Require(t, "dhclient")
	r := newRouter(t, "203.0.113")
	r.online()
	dir := t.TempDir()
	sh := r.script(`echo "$reason $new_ip_address $new_routers $new_dhcp_lease_time"
[ -n "$new_ip_address" ] && ip addr flush dev pc0 && ip addr add $new_ip_address/24 dev pc0
exit 0
`)
	args := []string{"dhclient", "-d", "-sf", sh, "-cf", "/dev/null", "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "pc0"}
	c := r.pc.Start(args...)
	at := c.Expect(0, "192.168.1.1 43200\n")
	c.Expect(at, "renewal in") // its lease file is written
	old := r.lease()
	link := r.pc.Start("ip", "-o", "monitor", "link")
	r.uplink.Stop()
	r.isp.Run("ip", "addr", "flush", "dev", "isp0")
	r.isp.Run("ip", "link", "set", "isp0", "down")
	r.until("the WAN's link is lost", func() error {
		if r.status().WAN.Up {
			return errors.New("it is up")
		}
		return nil
	})
	r.isp.Run("ip", "link", "set", "isp0", "up")
	r.provide("192.168.1")
	at = link.Expect(0, "NO-CARRIER")
	link.Expect(at, "state UP")
	// What looks after the links starts the client anew: INIT-REBOOT.
	c.Signal(syscall.SIGKILL)
	<-c.Done()
	c = r.pc.Start(args...)
	b := old.As4()
	b[2] = 77
	at = c.Expect(0, "DHCPREQUEST for "+old.String())
	at = c.Expect(at, "DHCPNAK from")
	c.Expect(at, "BOUND "+netip.AddrFrom4(b).String()+" 192.168.77.1 43200\n")
}

// lease waits until the DHCP server runs and has a lease.
func (r *testRouter) lease() (addr netip.Addr) {
	r.t.Helper()
	r.until("a lease", func() error {
		var l []api.Lease
		if err := r.call(api.MethodLeases, nil, &l); err != nil || len(l) == 0 {
			return fmt.Errorf("%v %v", l, err)
		}
		addr = l[0].Addr
		return nil
	})
	return addr
}
