package qemu

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// TestUplinkFaults is a router with a bad Internet side, from none at all to
// one that offers the LAN's own subnet.
func TestUplinkFaults(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true, NoUplink: true})
	l.Ready()
	runSteps(t, l, []step{
		{"no DHCP server on the WAN", testNoDHCP},
		{"no carrier on the WAN", testNoCarrier},
		{"the DHCP server appears", testUplinkComes},
		{"WAN offers the LAN's subnet: the LAN moves", testLANMoves},
		{"WAN offers the subnet of a LAN set by hand: the WAN is held", testWANHeld},
		{"garbage on every UDP port", testGarbage},
		{"edge killed", testKillEdge},
		{"two admins commit at once", testTwoAdmins},
		{"factory-reset", testFactoryReset},
	})
}

// standing wants a problem in `show status` and at login.
func standing(t *testing.T, l *lab.Lab, text string) {
	t.Helper()
	l.Standing(text, 90*time.Second)
	greeting, err := l.Login(l.LANAddress)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(strings.Fields(greeting), " "), text) {
		t.Errorf("the login does not say %q:\n%s", text, greeting)
	}
}

func testNoDHCP(t *testing.T, l *lab.Lab) {
	l.Lease(l.C[0]) // the LAN works all the same
	standing(t, l, "DHCP")
}

func testNoCarrier(t *testing.T, l *lab.Lab) {
	const text = "No cable or no link on the WAN port eth1. Check the cable and the modem."
	l.Carrier("wan", false)
	standing(t, l, text)
	l.Carrier("wan", true)
	l.Gone(text, 90*time.Second)
}

func testUplinkComes(t *testing.T, l *lab.Lab) {
	l.Uplink("203.0.113")
	// Ask at once; the client's own back-off may have grown to a minute.
	l.Carrier("wan", false)
	l.Standing("No cable", 90*time.Second)
	l.Carrier("wan", true)
	l.Online()
	l.Gone("DHCP", 90*time.Second)
	l.Until("ping from the LAN", 60*time.Second, func() error { return l.Ping(l.C[0], lab.Server1) })
}

// replug stops the WAN's DHCP server, starts one for another subnet, and
// makes the router ask it.
func replug(l *lab.Lab, net24 string) {
	l.NoUplink()
	l.Uplink(net24)
	l.Carrier("wan", false)
	l.Standing("No cable", 90*time.Second)
	l.Carrier("wan", true)
	l.Until("a lease of "+net24+".0/24", 90*time.Second, func() error {
		st, err := l.Status()
		if err == nil && (!st.WAN.Up || !strings.HasPrefix(st.WAN.Address.String(), net24+".")) {
			err = fmt.Errorf("WAN is %+v", st.WAN)
		}
		return err
	})
}

func testLANMoves(t *testing.T, l *lab.Lab) {
	l.AdminAddress("192.168.77.5/24")
	l.NoUplink()
	l.Uplink("192.168.1")
	l.Carrier("wan", false)
	l.Standing("No cable", 90*time.Second)
	l.Carrier("wan", true)
	l.LANAddress = "192.168.77.1"
	st := l.Online()
	if got := st.LAN.Address.String(); got != "192.168.77.1/24" || !st.LAN.Moved {
		t.Errorf("LAN is %+v, want 192.168.77.1/24, moved", st.LAN)
	}
	// The client of before asks for its old address and is sent to a new one.
	if addr := l.Lease(l.C[0]); !strings.HasPrefix(addr, "192.168.77.") {
		t.Errorf("c1's lease is %s, want one of 192.168.77.0/24", addr)
	}
	if out := l.Sh(l.C[0], "ip route"); !strings.Contains(out, "default via 192.168.77.1") {
		t.Errorf("c1's routes do not follow:\n%s", out)
	}
	l.Until("ping from the moved LAN", 60*time.Second, func() error { return l.Ping(l.C[0], lab.Server1) })
	if out := l.Sh(l.C[0], "dig +short +time=5 @192.168.77.1 culvert.lan"); strings.TrimSpace(out) != "192.168.77.1" {
		t.Errorf("culvert.lan is %q, want 192.168.77.1", out)
	}
}

func testWANHeld(t *testing.T, l *lab.Lab) {
	const text = "WAN offers 192.168.1.0/24, the same as your LAN, so the Internet is off. Fix: set lan address 192.168.77.1/24; commit confirm 2m"
	// By hand, and knowing better: from then on the router does not move it.
	out := l.CutOff("set lan address 192.168.1.2/24; commit")
	if !strings.Contains(out, "192.168.1.2") || !strings.Contains(out, "confirm") {
		t.Errorf("a commit that cuts its own session does not say where the router is then and that it waits for confirm:\n%s", out)
	}
	l.LANAddress = "192.168.1.2"
	l.Ready()
	if out, err := l.Router.Command("confirm"); err != nil {
		t.Fatalf("confirm: %v\n%s", err, out)
	}
	for range 2 { // at every login
		standing(t, l, text)
	}
	if addr := l.Lease(l.C[0]); !strings.HasPrefix(addr, "192.168.1.") {
		t.Errorf("c1's lease is %s, want one of 192.168.1.0/24", addr)
	}
	if err := l.Ping(l.C[0], lab.Server1); err == nil {
		t.Error("the Internet is on, although WAN and LAN have the same subnet")
	}
	// The fix, as the router told it.
	_, fix, _ := strings.Cut(text, "Fix: ")
	l.CutOff(fix)
	l.LANAddress = "192.168.77.1"
	l.Online()
	if out, err := l.Router.Command("confirm"); err != nil {
		t.Fatalf("confirm: %v\n%s", err, out)
	}
	l.Gone("the Internet is off", 90*time.Second)
	l.Lease(l.C[0])
	l.Until("ping after the fix", 60*time.Second, func() error { return l.Ping(l.C[0], lab.Server1) })
	// Back to the usual addresses.
	replug(l, "203.0.113")
}

// testKillEdge: what faces people crashes; the network manager must not notice.
func testKillEdge(t *testing.T, l *lab.Lab) {
	netd := servicePID(t, l, "netd")
	ping, err := l.C[1].Start("ping", "-n", "-i", "0.1", "-c", "60", lab.Server1)
	if err != nil {
		t.Fatal(err)
	}
	l.Router.Command("restart edge") // ends its own session
	l.Until("DNS after the restart of edge", 30*time.Second, func() error {
		_, err := l.C[1].Run(10*time.Second, "sh", "-c", "dig +short +time=1 +tries=1 @"+l.LANAddress+" www.example.com | grep -q "+lab.Server1)
		return err
	})
	l.Ready()
	if now := servicePID(t, l, "netd"); now != netd {
		t.Errorf("netd is process %d now and was %d: a crash of edge stopped it", now, netd)
	}
	noLoss(t, l, ping)
}

// noLoss waits for the end of a ping and wants every answer.
func noLoss(t *testing.T, l *lab.Lab, ping *peers.Process) {
	t.Helper()
	var out string
	l.Until("the ping's end", 60*time.Second, func() (err error) {
		var exited bool
		if out, exited, err = ping.Log(); err == nil && !exited {
			err = fmt.Errorf("still running:\n%s", out)
		}
		return err
	})
	if !strings.Contains(out, " 0% packet loss") {
		t.Errorf("pings were lost:\n%s", out)
	}
}

// testTwoAdmins: the second of two who commit at once is told what the first
// changed, and loses nothing.
func testTwoAdmins(t *testing.T, l *lab.Lab) {
	second, err := l.Shell()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Exchange("> ", "set system hostname cellar\r", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Expect(`\*> `, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	l.Commit("set dns cache-size 123")
	if err := second.Type("commit\r"); err != nil {
		t.Fatal(err)
	}
	m, err := second.Expect(`(?s)Not committed: (.*)Type refresh`, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cache-size", "123", "192.168.77.5", ssh.FingerprintSHA256(l.Key.PublicKey())} {
		if !strings.Contains(strings.ReplaceAll(m[1], "\r\n", ""), want) {
			t.Errorf("the second admin is not told %q:\n%s", want, m[1])
		}
	}
	for _, exchange := range [][2]string{{`\*> `, "refresh\r"}, {"now stand on revision", "commit\r"}, {`Revision \d+ runs`, "exit\r"}} {
		if err := second.Exchange(exchange[0], exchange[1], 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	out, err := l.Router.Command("show settings")
	if err != nil || !strings.Contains(out, "set system hostname cellar") || !strings.Contains(out, "set dns cache-size 123") {
		t.Errorf("not both changes are there (%v):\n%s", err, out)
	}
}

// testFactoryReset: everything is forgotten; what the fleet's settings disk
// says is taken again, as on the first day.
func testFactoryReset(t *testing.T, l *lab.Lab) {
	key := l.HostKey().Marshal()
	if out, err := l.Router.Command("factory-reset"); err == nil {
		t.Fatalf("factory-reset without a word of confirmation: %s", out)
	}
	l.Router.Command("factory-reset now")
	l.LANAddress = "192.168.1.1"
	l.Until("the router at its first address", 90*time.Second, func() error {
		st, err := l.Status()
		if err == nil && st.Hostname == "cellar" {
			err = fmt.Errorf("hostname is still %s", st.Hostname)
		}
		return err
	})
	if bytes.Equal(l.HostKey().Marshal(), key) {
		t.Error("the SSH host key is still the one of before the factory reset")
	}
	var history []api.Revision
	if err := l.Show("history", &history); err != nil {
		t.Fatal(err)
	}
	if len(history) > 1 {
		t.Errorf("revisions of before the factory reset are still there: %+v", history)
	}
}
