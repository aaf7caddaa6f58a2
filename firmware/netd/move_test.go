package netd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// TestMovedBack: a person gets the LAN address that the LAN moved away from by
// saying it, although the settings had it all the time, and keeps it.
func TestMovedBack(t *testing.T) {
	r := newRouter(t, "192.168.1")
	r.online()
	at := func(want string) func() error {
		return func() error {
			st := r.status()
			if st.LAN.Address.String() != want || st.WAN.Address.IsValid() != st.LAN.Moved {
				return fmt.Errorf("%+v %+v", st.LAN, st.WAN)
			}
			return nil
		}
	}
	s, base := r.candidate("lan address 192.168.1.1/24")
	if reply, err := r.commit(base, s, 4*time.Second); err != nil || reply.Unchanged {
		t.Fatalf("%+v %v", reply, err)
	}
	if err := at("192.168.1.1/24")(); err != nil {
		t.Error("while the commit waits for confirm:", err)
	}
	r.until("the roll-back", at("192.168.77.1/24"))
	if err := r.call(api.MethodPassword, api.PasswordParams{Hash: "$argon2id$v=19$m=8192,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := at("192.168.77.1/24")(); err != nil {
		t.Error("after a change that is not about the LAN:", err)
	}
	s, base = r.candidate("lan address 192.168.1.1/24")
	reply, err := r.commit(base, s, time.Minute)
	if err != nil || reply.Unchanged {
		t.Fatalf("%+v %v", reply, err)
	}
	if err := r.call(api.MethodConfirm, api.Author{Via: "serial"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := at("192.168.1.1/24")(); err != nil {
		t.Error(err)
	}
	if p := strings.Join(r.status().Problems, " "); !strings.Contains(p, "the same as your LAN, so the Internet is off") {
		t.Errorf("told %q", p)
	}
	s, base = r.candidate("lan address 192.168.1.1/24")
	if reply, err := r.commit(base, s, 0); err != nil || !reply.Unchanged {
		t.Errorf("the same again: %+v %v", reply, err)
	}
	r.stop()
	r.start()
	if err := at("192.168.1.1/24")(); err != nil {
		t.Error("after a restart:", err)
	}
}
