package qemu

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
)

// step is one thing that a router is watched doing; steps of one boot build on
// each other.
type step struct {
	name string
	run  func(*testing.T, *lab.Lab)
}

func runSteps(t *testing.T, l *lab.Lab, steps []step) {
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.run(t, l.For(t)) }) {
			t.FailNow() // the next would fail for this one's reason
		}
	}
}

// TestRouter is a home behind the default board: leases, names, NAT, port
// forwards and every VPN protocol with real clients and servers.
func TestRouter(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	l.Online()
	runSteps(t, l, []step{
		{"leases and names", testLeases},
		{"NAT", testNAT},
		{"port forward", testForward},
		{"offloaded connections end with what allowed them", testOffload},
		{"handshakes and the fast path", testHandshakes},
		{"PPTP, three clients", testPPTP},
		{"PPTP at another port", testPPTPPort},
		{"L2TP, three clients", testL2TP},
		{"IPsec with NAT-T, two clients", testNATT},
		{"IPsec, native ESP", testESP},
		{"PPTP server on the LAN", testLANPPTP},
		{"switches", testSwitches},
		{"netd killed under traffic", testKillNetd},
		{"commit-confirm comes back", testCommitConfirm},
		{"settings survive a reboot", testReboot},
	})
}

func testLeases(t *testing.T, l *lab.Lab) {
	seen := map[string]bool{}
	for _, h := range l.C {
		addr := l.Lease(h)
		if !strings.HasPrefix(addr, "192.168.1.") || seen[addr] {
			t.Errorf("%s has address %q, want a free one of 192.168.1.0/24", h.Name, addr)
		}
		seen[addr] = true
	}
	var leases []api.Lease
	if err := l.Show("leases", &leases); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.C {
		i := slices.IndexFunc(leases, func(le api.Lease) bool { return le.Name == h.Name })
		if i < 0 {
			t.Errorf("show leases has no %s: %+v", h.Name, leases)
			continue
		}
		l.Until("the name of "+h.Name, 10*time.Second, func() error {
			out := l.Sh(l.C[0], "dig +short +time=5 @192.168.1.1 "+h.Name+".lan")
			if strings.TrimSpace(out) != leases[i].Addr.String() {
				return fmt.Errorf("DNS says %s.lan is %q, the lease says %s", h.Name, out, leases[i].Addr)
			}
			return nil
		})
	}
	for name, want := range map[string]string{"culvert.lan": "192.168.1.1", "www.example.com": lab.Server1} {
		for _, proto := range []string{"+notcp", "+tcp"} {
			if out := l.Sh(l.C[0], "dig +short +time=5 "+proto+" @192.168.1.1 "+name); strings.TrimSpace(out) != want {
				t.Errorf("dig %s %s: %q, want %s", proto, name, out, want)
			}
		}
	}
}

func testNAT(t *testing.T, l *lab.Lab) {
	l.Sh(l.S1, "mkdir -p /srv && head -c 3000000 /dev/urandom > /srv/blob && md5sum < /srv/blob > /tmp/sum")
	if _, err := l.S1.Start("socat", "-U", "TCP-LISTEN:80,reuseaddr,fork", "FILE:/srv/blob,rdonly"); err != nil {
		t.Fatal(err)
	}
	want := l.Sh(l.S1, "cat /tmp/sum")
	for _, h := range l.C {
		l.Sh(h, "ping -n -c 3 -i 0.2 -W 5 "+lab.Server1)
		if got := l.Sh(h, "timeout 50 socat -u TCP4:www.example.com:80,retry=20,interval=0.5 - | md5sum"); got != want {
			t.Errorf("%s: got %s of the file, want %s", h.Name, got, want)
		}
	}
	// The server must have seen the router's address alone.
	var conns []api.Connection
	if err := l.Show("connections", &conns); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(conns, func(c api.Connection) bool { return c.Dst.String() == lab.Server1+":80" })
	if i < 0 {
		t.Fatalf("show connections has nothing to %s:80: %+v", lab.Server1, conns)
	}
	if a := conns[i].ReplyDst.Addr().String(); !strings.HasPrefix(a, "203.0.113.") {
		t.Errorf("the reply goes to %s, want the WAN address", a)
	}
}

func testForward(t *testing.T, l *lab.Lab) {
	c1 := l.Address(l.C[0])
	if _, err := l.C[0].Start("socat", "TCP-LISTEN:8000,reuseaddr,fork", "EXEC:echo from-c1"); err != nil {
		t.Fatal(err)
	}
	l.Commit("set firewall forward web protocol tcp port 8080 to " + c1 + " to-port 8000")
	wan := l.Online().WAN.Address.Addr().String()
	l.Until("the forwarded port from the Internet", 20*time.Second, func() error {
		return read(l, wan+":8080", "from-c1")
	})
	// Hairpin: a LAN device uses the public address too.
	if out := l.Sh(l.C[1], "nc -w 5 "+wan+" 8080 </dev/null"); !strings.Contains(out, "from-c1") {
		t.Errorf("c2 got %q from %s:8080, want c1's answer", out, wan)
	}
	l.Commit("delete firewall forward web")
	if err := read(l, wan+":8080", "from-c1"); err == nil {
		t.Error("the port is still open after the forward was deleted")
	}
}

// read connects from the Internet and wants a text.
func read(l *lab.Lab, addr, want string) error {
	conn, err := l.NS.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp4", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(conn)
	if !strings.Contains(string(b), want) {
		return fmt.Errorf("%s said %q (%v), want %q", addr, b, err, want)
	}
	return nil
}

// testCommitConfirm cuts the admin's own link by a commit: it goes back
// without a confirmation.
func testCommitConfirm(t *testing.T, l *lab.Lab) {
	before := l.Ready().Revision
	out := l.CutOff("set lan address 192.168.9.1/24; commit confirm 40s")
	if !strings.Contains(out, "192.168.9.1") {
		t.Errorf("the commit does not name the new address:\n%s", out)
	}
	if _, err := l.NS.Dial(net.Dialer{Timeout: 2 * time.Second}, "tcp4", "192.168.1.1:22"); err == nil {
		t.Fatal("192.168.1.1 still answers after the LAN moved")
	}
	st := l.Ready() // waits for the roll-back
	if got := st.LAN.Address.String(); got != "192.168.1.1/24" {
		t.Errorf("LAN is %s, want 192.168.1.1/24 again", got)
	}
	var history []api.Revision
	if err := l.Show("history", &history); err != nil {
		t.Fatal(err)
	}
	if last := history[0]; last.N <= before || last.State != "rolled-back" {
		t.Errorf("history begins with %+v, want a revision after %d that was rolled back", last, before)
	}
}

// testReboot changes something, reboots by the shell, and wants it again.
func testReboot(t *testing.T, l *lab.Lab) {
	l.Commit("set system hostname attic")
	var before []api.Lease
	if err := l.Show("leases", &before); err != nil {
		t.Fatal(err)
	}
	key := l.HostKey().Marshal()
	boots := strings.Count(l.Router.Console.Text(), "Linux version")
	l.Router.Command("reboot now")
	if _, err := l.Router.Console.Expect("(?i)reboot|restart", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	l.Until("the second boot", 60*time.Second, func() error {
		st, err := l.Status()
		if err != nil {
			return err
		}
		if st.Uptime > 60*time.Second {
			return fmt.Errorf("up for %v, has not rebooted (%d boots)", st.Uptime, boots)
		}
		return nil
	})
	st := l.Online()
	if st.Hostname != "attic" {
		t.Errorf("hostname is %q after the reboot, want attic", st.Hostname)
	}
	var after []api.Lease
	if err := l.Show("leases", &after); err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) || len(after) < 3 {
		t.Errorf("%d leases after the reboot, %d before", len(after), len(before))
	}
	if string(l.HostKey().Marshal()) != string(key) {
		t.Error("the SSH host key changed over the reboot")
	}
	// The DHCP client in c1 keeps its address, and its name still resolves.
	if out := l.Sh(l.C[0], "dig +short +time=5 @192.168.1.1 c1.lan"); strings.TrimSpace(out) != l.Address(l.C[0]) {
		t.Errorf("c1.lan is %q after the reboot, want %s", out, l.Address(l.C[0]))
	}
}
