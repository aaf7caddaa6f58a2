package qemu

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
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

// testGarbage throws noise at every UDP port from both sides, and at the open
// ones malformed packets of their own protocol's size.
func testGarbage(t *testing.T, l *lab.Lab) {
	st := l.Online()
	before := restarts(st)
	heard, err := received(l)
	if err != nil {
		t.Fatal(err)
	}
	// The router is slower than the test, and a full queue drops.
	for _, tap := range []string{"rlan", "rwan"} {
		if err := l.NS.Exec("ip", "link", "set", tap, "txqueuelen", "100000"); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for side, to := range map[string]netip.Addr{"LAN": st.LAN.Address.Addr(), "WAN": st.WAN.Address.Addr()} {
		err := l.NS.Do(func() error {
			c, err := net.ListenUDP("udp4", nil)
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(60 * time.Second)) // a write waits for ARP
			for port := 1; port < 1<<16; port++ {
				noise(rng, c, to, uint16(port))
			}
			for range 300 {
				for _, port := range []uint16{53, 67, 68, 123} {
					noise(rng, c, to, port)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", side, err)
		}
	}
	// DHCP from its own port, by broadcast and to the client on the WAN side.
	for _, p := range []struct{ dev, from, to string }{{"lan", ":68", "255.255.255.255:67"}, {"wan", ":67", st.WAN.Address.Addr().String() + ":68"}} {
		c, err := l.ListenUDP(p.dev, p.from)
		if err != nil {
			t.Fatal(err)
		}
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(p.to))
		for range 300 {
			c.WriteTo(bootp(rng), to)
		}
		c.Close()
	}
	l.Until("all the garbage at the router", 90*time.Second, func() error {
		now, err := received(l)
		for port, n := range now {
			if n -= heard[port]; n < 1<<16 {
				err = fmt.Errorf("the %s got %d packets", port, n)
			}
		}
		return err
	})
	l.Lease(l.C[1])
	l.Sh(l.C[1], "dig +short +time=5 @"+l.LANAddress+" www.example.com | grep -q "+lab.Server1)
	l.Until("ping after the garbage", 60*time.Second, func() error { return l.Ping(l.C[1], lab.Server1) })
	st = l.Online()
	if after := restarts(st); after != before {
		t.Errorf("services were restarted by garbage: %s, before %s", after, before)
	}
}

func restarts(st *api.Status) string {
	var b strings.Builder
	for _, s := range st.Services {
		fmt.Fprintf(&b, "%s:%d ", s.Name, s.Restarts)
	}
	return b.String()
}

// received is how many packets came in at the router's ports, by role.
func received(l *lab.Lab) (map[string]uint64, error) {
	var all []api.Interface
	if err := l.Show("interfaces", &all); err != nil {
		return nil, err
	}
	n := map[string]uint64{}
	for _, i := range all {
		if i.Role == "lan port" || i.Role == "wan" {
			n[i.Role] += i.RxPackets
		}
	}
	if len(n) != 2 {
		return nil, fmt.Errorf("show interfaces has no LAN port or no WAN: %+v", all)
	}
	return n, nil
}

func noise(rng *rand.Rand, c *net.UDPConn, to netip.Addr, port uint16) {
	p := make([]byte, rng.IntN(64))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	c.WriteToUDPAddrPort(p, netip.AddrPortFrom(to, port)) // a refused port may show here later
}

// bootp is a DHCP packet with a good head and options that end anywhere.
func bootp(rng *rand.Rand) []byte {
	p := make([]byte, 240+rng.IntN(100))
	p[0], p[1], p[2] = byte(1+rng.IntN(2)), 1, 6
	for i := 4; i < 44; i++ {
		p[i] = byte(rng.Uint32())
	}
	copy(p[236:], []byte{99, 130, 83, 99, 53, 1, byte(rng.IntN(9)), 12, 255})
	for i := 244; i < len(p); i++ {
		p[i] = byte(rng.Uint32())
	}
	return p
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

// TestDiskFaults is a router whose data disk is garbage, full, or damaged.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	garbage := make([]byte, 16<<20)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range garbage {
		garbage[i] = byte(rng.Uint32())
	}
	l := lab.New(t, lab.Config{Settings: settings.Default(), Data: garbage})
	runSteps(t, l, []step{
		{"a disk of garbage is made anew", testGarbageDisk},
		{"full", testFullDisk},
		{"damaged settings database", testDamaged},
		{"damaged database and damaged copy", testDamagedTwice},
	})
}

func testGarbageDisk(t *testing.T, l *lab.Lab) {
	l.Ready()
	l.Commit("set system hostname attic")
	log, err := l.Router.Command("show log init 200")
	if err != nil || !strings.Contains(log, "remade") {
		t.Errorf("the log does not say that the disk was made anew (%v):\n%s", err, log)
	}
	l.PowerOff()
	l.DataFill("filler")
	l.Boot()
	st := l.Ready()
	if st.Hostname != "attic" {
		t.Errorf("hostname is %q after a reboot with a full disk, want attic", st.Hostname)
	}
}

func testFullDisk(t *testing.T, l *lab.Lab) {
	was := l.Ready()
	large := settings.Default()
	large.System.Hostname = "too-large"
	large.Firewall.Forwards = map[string]settings.Forward{}
	for i := range 2400 { // more than what is set aside for small changes
		large.Firewall.Forwards[fmt.Sprintf("forward-with-a-long-name-that-fills-a-disk-sooner-%d", i)] = settings.Forward{
			Enabled: true, Protocol: settings.TCP, Port: 1 + i, To: netip.MustParseAddr("192.168.1.9")}
	}
	out, err := l.Router.CommandWith("import; commit", settings.Export(large, true))
	if err == nil || !strings.Contains(out, "/data is full") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("a commit that does not fit: %v\n%s", err, out)
	}
	st := l.Ready()
	if st.Revision != was.Revision || st.Hostname != "attic" {
		t.Errorf("after the failed commit: revision %d, hostname %s; before: %d, %s", st.Revision, st.Hostname, was.Revision, was.Hostname)
	}
	shown, err := l.Router.Command("show settings")
	if err != nil || strings.Contains(shown, "long-name") {
		t.Errorf("part of the commit that failed is in force (%v)", err)
	}
	if got := restarts(st); got != restarts(was) {
		t.Errorf("services were restarted: %s, before %s", got, restarts(was))
	}
	l.PowerOff()
	for _, n := range l.DataNames() {
		if strings.HasPrefix(n, "filler") {
			l.DataRemove(n)
		}
	}
}

// testDamaged overwrites the middle of the database.
func testDamaged(t *testing.T, l *lab.Lab) {
	db := l.DataRead("culvert.db")
	for i := range db {
		if i%4096 > 100 {
			db[i] = 0xa5
		}
	}
	l.DataWrite("culvert.db", db)
	l.Boot()
	st := l.Ready() // the lab's key still opens the door
	if st.Hostname != "attic" {
		t.Errorf("hostname is %q, want attic of the last good copy", st.Hostname)
	}
	standing(t, l, "The settings database was damaged.")
	l.PowerOff()
	names := l.DataNames()
	i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "culvert.db.damaged-") })
	if i < 0 {
		t.Fatalf("the damaged file is not kept: %v", names)
	}
	if !bytes.Equal(l.DataRead(names[i]), db) {
		t.Error("the damaged file was changed")
	}
}

// testDamagedTwice also spoils the copy: defaults, but the owner stays.
func testDamagedTwice(t *testing.T, l *lab.Lab) {
	db := bytes.Repeat([]byte{0xa5}, 64<<10)
	l.DataWrite("culvert.db", db)
	i := slices.IndexFunc(l.DataNames(), func(n string) bool { return n == "settings.last-good.json" })
	if i < 0 {
		t.Fatalf("there is no last good copy: %v", l.DataNames())
	}
	copied := l.DataRead("settings.last-good.json")
	l.DataWrite("settings.last-good.json", bytes.Replace(copied, []byte("attic"), []byte("att\x00c"), 1))
	l.Boot()
	st := l.Ready() // with the lab's key: the credentials were kept
	if st.Hostname != settings.Default().System.Hostname {
		t.Errorf("hostname is %q, want the default", st.Hostname)
	}
	standing(t, l, "the admin's password and keys were kept")
	if out := strings.Join(l.Ready().Problems, "\n"); !strings.Contains(out, "is kept as") {
		t.Errorf("show status does not say where the damaged file is:\n%s", out)
	}
}
