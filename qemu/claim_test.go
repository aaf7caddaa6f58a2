package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
)

const (
	wanAddress = "203.0.113.50"
	password   = "correct horse battery"
)

// staticWAN are settings without an owner, with a WAN address that is known
// from power-on, so that it can be scanned while the router boots.
func staticWAN() *settings.Settings {
	s := settings.Default()
	s.WAN.Mode = settings.WANStatic
	s.WAN.Static.Address = netip.MustParsePrefix(wanAddress + "/24")
	s.WAN.Static.Gateway = netip.MustParseAddr(lab.ISP)
	s.DNS.Upstreams = []netip.Addr{netip.MustParseAddr(lab.ISP)}
	return s
}

// TestUnclaimed takes a router from power-on to its first owner, scanned from
// the Internet all the time.
func TestUnclaimed(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: staticWAN(), NoKey: true, Peers: true, Scan: wanAddress})
	steps := []step{
		{"greeting on the serial line", testGreeting},
		{"the Internet works before the claim", testInternetUnclaimed},
		{"closed while booting and unclaimed", func(t *testing.T, l *lab.Lab) { noPorts(t, l, l.Scanned()); noPorts(t, l, scanWAN(t, l)) }},
		{"SSH before the claim: nothing but password and key", testUnclaimedSSH},
		{"claim with a password over SSH", testClaim},
		{"closed when claimed", func(t *testing.T, l *lab.Lab) { noPorts(t, l, scanWAN(t, l)) }},
		{"50 wrong logins at once", testWrongLogins},
	}
	runSteps(t, l, steps)
}

func testGreeting(t *testing.T, l *lab.Lab) {
	if err := l.Router.Activate(60 * time.Second); err != nil {
		t.Fatal(err)
	}
	want := `This router has no owner yet. Set a password now (12 characters or more), or type "key" to paste an SSH public key. The Internet already works.`
	l.Until("the greeting on the serial line", 10*time.Second, func() error {
		text := strings.ReplaceAll(l.Router.Console.Text(), "\r", "")
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			return fmt.Errorf("want:\n%s\ngot:\n%s", want, text)
		}
		return nil
	})
}

func testInternetUnclaimed(t *testing.T, l *lab.Lab) {
	l.Lease(l.C[0])
	l.Until("ping through the router", 60*time.Second, func() error {
		_, err := l.C[0].Run(20*time.Second, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", lab.Server1)
		return err
	})
	l.Sh(l.C[0], "dig +short +time=5 @192.168.1.1 www.example.com | grep -q "+lab.Server1)
}

// scanWAN scans all TCP and the first 2000 UDP ports from the Internet.
func scanWAN(t *testing.T, l *lab.Lab) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var out strings.Builder
	for _, args := range []string{"-sS -p 1-65535 --min-rate 6000", "-sU -p 1-2000 --min-rate 1000"} {
		s, err := l.Scan(ctx, wanAddress, strings.Fields(args)...)
		if err != nil {
			t.Fatalf("nmap %s: %v\n%s", args, err, s)
		}
		out.WriteString(s)
	}
	return out.String()
}

var (
	anyPort  = regexp.MustCompile(`(?m)^\d+/(tcp|udp)\s+(open|closed|unfiltered)\b.*(syn-ack|reset|port-unreach|udp-response).*$`)
	allPorts = regexp.MustCompile(`All \d+ scanned ports`)
)

// noPorts wants a scan in which nothing answered.
func noPorts(t *testing.T, l *lab.Lab, out string) {
	t.Helper()
	if !allPorts.MatchString(out) {
		t.Errorf("the scan has no result:\n%s", out)
	}
	if m := anyPort.FindAllString(out, -1); m != nil || strings.Contains(out, "reset") || strings.Contains(out, "port-unreach") {
		t.Errorf("the WAN answers:\n%s\n%s", strings.Join(m, "\n"), out)
	}
}

func testUnclaimedSSH(t *testing.T, l *lab.Lab) {
	var c *ssh.Client
	l.Until("SSH on the LAN", 60*time.Second, func() (err error) {
		c, err = l.SSHAs("192.168.1.1")
		return err
	})
	defer c.Close()
	if _, err := c.Dial("tcp", "198.51.100.10:80"); err == nil {
		t.Error("an unclaimed router forwards TCP")
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.CombinedOutput("show settings"); err == nil {
		t.Errorf("an unclaimed router runs a command:\n%s", out)
	}
	s.Close()
}

func testClaim(t *testing.T, l *lab.Lab) {
	term, err := l.Shell([]ssh.AuthMethod{}...) // nobody's: the router asks for nothing yet
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	if err := term.Exchange("New password, or key: ", "short\r", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := term.Expect("5 characters; it must have 12", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := term.Claim(password, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	l.Until("login with the new password", 60*time.Second, func() error {
		_, err := ownersCommand(l, "set dns cache-size 500; commit; show status")
		return err
	})
	if c, err := l.SSHAs("192.168.1.1"); err == nil {
		c.Close()
		t.Error("a claimed router still lets anybody in")
	}
}

// ownersCommand runs a command for the owner, by password.
func ownersCommand(l *lab.Lab, command string) ([]byte, error) {
	c, err := l.SSHAs("192.168.1.1", ssh.Password(password))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	b, err := s.CombinedOutput(command)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, b)
	}
	return b, nil
}

// testWrongLogins is an attack from the LAN: the router goes on routing, no
// process dies of it, and the owner gets in afterwards.
func testWrongLogins(t *testing.T, l *lab.Lab) {
	began := time.Now()
	ping, err := l.C[0].Start("ping", "-n", "-q", "-i", "0.2", lab.Server1)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if c, err := l.SSHAs("192.168.1.1", ssh.Password(fmt.Sprintf("wrong password %d", i))); err == nil {
				c.Close()
				t.Error("a wrong password was accepted")
			}
		})
	}
	wg.Wait()
	time.Sleep(time.Until(began.Add(15 * time.Second)))      // 75 pings at least: one lost is no 3%
	if err := ping.Signal(int(syscall.SIGINT)); err != nil { // it prints its statistics
		t.Fatal(err)
	}
	var out string
	l.Until("the ping's end", 60*time.Second, func() error {
		var exited bool
		var err error
		if out, exited, err = ping.Log(); err == nil && !exited {
			err = fmt.Errorf("still running")
		}
		return err
	})
	if !regexp.MustCompile(`, [0-3](\.\d+)?% packet loss`).MatchString(out) {
		t.Errorf("the router stopped routing under 50 wrong logins:\n%s", out)
	}
	var st api.Status
	l.Until("the owner's login after the attack", 120*time.Second, func() error {
		b, err := ownersCommand(l, "show status --json")
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &st)
	})
	for _, s := range st.Services {
		if s.Restarts > 0 {
			t.Errorf("%s was restarted %d times: the attack killed it", s.Name, s.Restarts)
		}
	}
	if len(st.Services) == 0 {
		t.Error("show status names no services")
	}
}
