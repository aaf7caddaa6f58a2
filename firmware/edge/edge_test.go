package edge

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/shell"
	"github.com/culvert-fw/culvert/firmware/sshd"
)

const password = "correct horse battery"

func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func has(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("no %q in:\n%s", w, got)
		}
	}
}

func TestClaimByPasswordAndLogIn(t *testing.T) {
	r := newRig(t, "", time.Minute)
	k := r.startTalk(t, "", "-tt", "admin@192.168.1.1")
	k.expect(shell.Greeting)
	k.expect("New password, or key: ")
	k.send("short\r")
	k.expect("it must have 12 or more")
	k.send("aaaaaaaaaaaaaaa\r")
	k.expect("first that anybody would try")
	k.send(password + "\r")
	k.expect("Once more: ")
	k.send(password + "\r")
	k.expect("The router is yours.")
	c := r.Claim()
	if c == nil || c.Author.Via != "ssh" || c.Author.Addr != netip.MustParseAddr("192.168.1.1") {
		t.Fatalf("claim: %+v", c)
	}
	if strings.Contains(k.seen(), password) {
		t.Error("the password was shown")
	}
	await(t, "the claim reaches edge", func() bool { return r.edge.cfg.Load().Claimed })
	k = r.startTalk(t, password, "-tt", "admin@192.168.1.1")
	k.expect("Claimed on 20")
	k.expect("by ssh 192.168.1.1 (02:00:00:00:00:01) with password")
	k.expect("culvert> ")
	k.send("show version\r")
	k.expect("Culvert 0.1 on test")
	k.send("exit\r")

	out, err := r.run(t, password, "", "admin@192.168.1.1", "show version --json")
	if err != nil {
		t.Errorf("one-shot: %v: %s", err, out)
	}
	has(t, out, `"culvert": "0.1"`)
	out, err = r.run(t, "wrong password here", "", "admin@192.168.1.1", "show version")
	if err == nil {
		t.Errorf("a wrong password logged in: %s", out)
	}
	has(t, out, "Permission denied")
	if out, err := r.run(t, password, "", "root@192.168.1.1", "show version"); err == nil {
		t.Errorf("root logged in: %s", out)
	}
}

func TestClaimByKeyAndWhatIsRefused(t *testing.T) {
	r := newRig(t, "", time.Minute)
	r.makeKey(t)
	// Before the claim: no command, no forwarding, no subsystem, one session.
	out, err := r.run(t, "", "", "admin@192.168.1.1", "show version")
	if err == nil {
		t.Errorf("an unclaimed router ran a command: %s", out)
	}
	has(t, out, "This router has no owner yet")
	if out, err := r.run(t, "", "", "-W", "192.168.1.1:53", "admin@192.168.1.1"); err == nil {
		t.Errorf("an unclaimed router forwarded: %s", out)
	}
	if out, err := r.run(t, "", "", "-s", "admin@192.168.1.1", "sftp"); err == nil {
		t.Errorf("an unclaimed router has sftp: %s", out)
	}

	k := r.startTalk(t, "", "-tt", "admin@192.168.1.1")
	k.expect("New password, or key: ")
	k.send("key\r")
	k.expect("Public key")
	k.send("-----BEGIN OPENSSH PRIVATE KEY-----\r")
	k.expect("This is a private key")
	k.send("key\r")
	k.expect("Public key")
	k.send(r.key + "\r")
	k.expect("The router is yours.")
	await(t, "the claim reaches edge", func() bool { return r.edge.cfg.Load().Claimed })

	out, err = r.run(t, "", "", "admin@192.168.1.1", "set passthrough l2tp off; commit message by-key")
	if err != nil {
		t.Fatalf("one-shot with a key: %v: %s", err, out)
	}
	out, err = r.run(t, "", "", "admin@192.168.1.1", "history --json")
	if err != nil {
		t.Fatal(err, out)
	}
	has(t, out, "by-key", "me@home", "SHA256:")
	out, err = r.run(t, "", "", "admin@192.168.1.1", "bogus")
	if err == nil {
		t.Error("a command that fails has status 0")
	}
	has(t, out, `There is no command "bogus"`)

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-W", "192.168.1.1:53", "admin@192.168.1.1"}, "stdio forwarding failed"},
		{[]string{"-s", "admin@192.168.1.1", "sftp"}, "subsystem request failed"},
		{[]string{"-o", "ExitOnForwardFailure=yes", "-N", "-R", "2000:127.0.0.1:53", "admin@192.168.1.1"}, "remote port forwarding failed"},
		{[]string{"-o", "ExitOnForwardFailure=yes", "-N", "-R", "/tmp/x:127.0.0.1:53", "admin@192.168.1.1"}, "remote port forwarding failed"},
	} {
		out, err := r.run(t, "", "", c.args...)
		if err == nil {
			t.Errorf("ssh %q worked: %s", c.args, out)
		}
		has(t, out, c.want)
	}
	// A script on standard input, without a terminal.
	out, err = r.run(t, "", "set passthrough l2tp on\ncompare\ncommit\n", "-T", "admin@192.168.1.1")
	if err != nil {
		t.Errorf("script: %v: %s", err, out)
	}
	has(t, out, "+ set passthrough l2tp on", "runs.")
}

func TestClaimWindowCloses(t *testing.T) {
	r := newRig(t, "", 30*time.Minute)
	for _, args := range [][]string{{"-tt", "admin@192.168.1.1"}, {"admin@192.168.1.1", "show version"}} {
		out, err := r.run(t, "", password+"\r"+password+"\r", args...)
		if err == nil {
			t.Errorf("ssh %q: status 0", args)
		}
		has(t, out, sshd.ClosedText)
		if strings.Contains(out, "New password") {
			t.Errorf("it asked for a password:\n%s", out)
		}
	}
	if r.Claim() != nil {
		t.Error("claimed after the window")
	}
}

// TestNetdDies ends netd under a session: the session and DNS live on.
func TestNetdDies(t *testing.T) {
	r := newRig(t, "", time.Minute)
	r.ownByKey(t)
	k := r.startTalk(t, "", "-tt", "admin@192.168.1.1")
	k.expect("culvert> ")
	k.send("set passthrough l2tp off\r")
	k.expect("culvert*> ")
	r.Stop()
	k.send("show version\r")
	k.expect(api.ErrAway.Text)
	if got := lookup(t, "printer.lan."); got != "192.168.1.10" {
		t.Errorf("printer.lan is %s while netd is away", got)
	}
	if got := lookupAt(t, "127.0.0.1:53", "printer.lan."); got != "192.168.1.10" {
		t.Errorf("printer.lan is %q to the router itself", got)
	}
	out, err := r.run(t, "", "", "admin@192.168.1.1", "show version")
	if err == nil {
		t.Error("status 0 while netd is away")
	}
	has(t, out, api.ErrAway.Text)
	r.Start(t)
	k.send("commit\r")
	k.expect("runs.")
	if r.Settings().Passthrough.L2TP.Enabled {
		t.Error("the candidate was lost")
	}
	r.SetConfig(func(c *api.EdgeConfig) { c.Names[0].Addr = netip.MustParseAddr("192.168.1.11") })
	await(t, "edge hears of netd's news again", func() bool { return lookup(t, "printer.lan.") == "192.168.1.11" })
}

// TestAddressMoves changes the LAN address under a session.
func TestAddressMoves(t *testing.T) {
	r := newRig(t, "", time.Minute)
	r.ownByKey(t)
	k := r.startTalk(t, "", "-tt", "admin@192.168.1.1")
	k.expect("culvert> ")
	r.SetConfig(func(c *api.EdgeConfig) { c.LANAddress = netip.MustParsePrefix("192.168.77.1/24") })
	if err := ip("addr", "add", "192.168.77.1/24", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	defer ip("addr", "del", "192.168.77.1/24", "dev", "lo") //nolint:errcheck // the namespace goes too
	await(t, "ssh listens on the new address", func() bool { return listening("192.168.77.1:22") })
	if listening("192.168.1.1:22") {
		t.Error("ssh still listens on the old address")
	}
	k.send("show version\r")
	k.expect("Culvert 0.1")
}

func lookup(t *testing.T, name string) string { return lookupAt(t, "192.168.1.1:53", name) }

func lookupAt(t *testing.T, server, name string) string {
	t.Helper()
	c, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write(b) //nolint:errcheck // shows at the read
	p := make([]byte, 1500)
	n, err := c.Read(p)
	if err != nil {
		t.Fatalf("dns: %v", err)
	}
	if err := m.Unpack(p[:n]); err != nil || len(m.Answers) == 0 {
		return ""
	}
	a, ok := m.Answers[0].Body.(*dnsmessage.AResource)
	if !ok {
		return ""
	}
	return netip.AddrFrom4(a.A).String()
}
