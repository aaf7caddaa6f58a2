package qemu

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// together dials from all clients at once and wants payload both ways in every
// tunnel while all are up; the tunnels stay up until the step ends.
func together(t *testing.T, hosts []*peers.Host, dial func(*peers.Host) (*lab.Tunnel, error)) []*lab.Tunnel {
	t.Helper()
	began := time.Now()
	tunnels := lab.Together(t, hosts, dial)
	up := time.Since(began)
	payload(t, tunnels)
	t.Logf("%d tunnels up after %.1f s, payload through after %.1f s", len(tunnels), up.Seconds(), time.Since(began).Seconds())
	return tunnels
}

// payload sends pings through all tunnels at once.
func payload(t *testing.T, tunnels []*lab.Tunnel) {
	t.Helper()
	errs := make(chan error, len(tunnels))
	for _, tu := range tunnels {
		go func() { errs <- tu.Payload(10, 500) }()
	}
	for range tunnels {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// sessionIDs are what tells sessions of a kind apart.
var sessionIDs = map[string]*regexp.Regexp{
	"control": regexp.MustCompile(`^tcp \d+>1723$`),
	"data":    regexp.MustCompile(`^(call 0x[0-9a-f]{4}/0x[0-9a-f]{4}|udp 1701>1701( as \d+)?)$`),
	"nat-t":   regexp.MustCompile(`^udp 4500>4500( as \d+)?$`),
}

// wantSessions looks at `show passthrough` for each device's session with a
// server, with ids, an age and data both ways.
func wantSessions(t *testing.T, l *lab.Lab, protocol, kind, server string, hosts []*peers.Host) {
	t.Helper()
	l.Until("the "+protocol+" "+kind+" sessions", 20*time.Second, func() error {
		var all []api.Session
		if err := l.Show("passthrough", &all); err != nil {
			return err
		}
		up := l.Ready().Uptime
		seen := map[string]bool{}
		for _, h := range hosts {
			addr := l.Address(h)
			i := slices.IndexFunc(all, func(s api.Session) bool {
				return s.Protocol == protocol && s.Kind == kind && s.Device.String() == addr && s.Server.String() == server && s.BytesIn > 0 && s.BytesOut > 0
			})
			if i < 0 {
				return fmt.Errorf("show passthrough has none of %s (%s) with %s and bytes both ways:\n%+v", h.Name, addr, server, all)
			}
			s := all[i]
			if s.Name != h.Name || !sessionIDs[kind].MatchString(s.IDs) || s.Age < time.Second || s.Age > up || s.PktsIn == 0 || s.PktsOut == 0 || s.Inbound {
				return fmt.Errorf("%s's is %+v: want its name, ids like %v, an age of 1 s to %v, packets both ways", h.Name, s, sessionIDs[kind], up)
			}
			seen[addr+" "+s.IDs] = true
		}
		if len(seen) != len(hosts) {
			return fmt.Errorf("%d sessions of %d devices: %v", len(seen), len(hosts), seen)
		}
		return nil
	})
}

// dialPPTP dials three clients of one PPTP server at once.
func dialPPTP(t *testing.T, l *lab.Lab) {
	l.PPTPServer(l.S1)
	together(t, l.C, func(h *peers.Host) (*lab.Tunnel, error) { return l.PPTP(h, lab.Server1) })
}

func testPPTP(t *testing.T, l *lab.Lab) {
	dialPPTP(t, l)
	wantSessions(t, l, "pptp", "control", lab.Server1, l.C)
	wantSessions(t, l, "pptp", "data", lab.Server1, l.C)
	var c api.PassthroughCounters
	if err := l.Show("passthrough counters", &c); err != nil {
		t.Fatal(err)
	}
	if e := c.Expectations; e.Max < 1000 || e.Used > e.Max/2 {
		t.Errorf("%d expectations of at most %d: the next PPTP calls find no room", e.Used, e.Max)
	}
}

// dialL2TP dials three clients of one L2TP server at once, all from port 1701.
func dialL2TP(t *testing.T, l *lab.Lab) {
	l.L2TPServer(l.S1)
	together(t, l.C, func(h *peers.Host) (*lab.Tunnel, error) { return l.L2TP(h, lab.Server1) })
}

func testL2TP(t *testing.T, l *lab.Lab) {
	dialL2TP(t, l)
	wantSessions(t, l, "l2tp", "data", lab.Server1, l.C)
}

// dialNATT dials two IPsec clients of one server, ESP in UDP.
func dialNATT(t *testing.T, l *lab.Lab) {
	l.IPsecServer(l.S1, lab.Server1, "auto")
	together(t, l.C[:2], func(h *peers.Host) (*lab.Tunnel, error) { return l.IPsec(h, lab.Server1, "yes") })
}

func testNATT(t *testing.T, l *lab.Lab) {
	dialNATT(t, l)
	wantSessions(t, l, "ipsec", "nat-t", lab.Server1, l.C[:2])
}

// dialESP dials IPsec clients with native ESP, all to one server.
func dialESP(t *testing.T, l *lab.Lab, clients []*peers.Host) []*lab.Tunnel {
	l.IPsecServer(l.S2, lab.Server2, "no")
	return together(t, clients, func(h *peers.Host) (*lab.Tunnel, error) { return l.IPsec(h, lab.Server2, "no") })
}

// copyingEnds: after 30 s of traffic of clients of one server nearly all that it
// sends goes to its owner alone. What begins a burst is always copied, and a busy
// machine makes bursts of a stream.
func copyingEnds(t *testing.T, l *lab.Lab, tunnels []*lab.Tunnel) {
	t.Helper()
	look := func() api.ServerCounters {
		t.Helper()
		var c api.PassthroughCounters
		if err := l.Show("passthrough counters", &c); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(c.Servers, func(s api.ServerCounters) bool { return s.Server.String() == lab.Server2 })
		if i < 0 {
			t.Fatalf("no counters of %s: %+v", lab.Server2, c)
		}
		return c.Servers[i]
	}
	steady(t, tunnels, 45, func() {
		time.Sleep(25 * time.Second)
		first := look()
		time.Sleep(8 * time.Second)
		last := look()
		packets, copies := last.PktsIn-first.PktsIn, last.Copies-first.Copies
		t.Logf("%d of %d SPIs are known; of %d packets %d were copied", last.SPIsBound, last.SPIsIn, packets, copies)
		if packets < 50 || copies*4 > packets {
			t.Errorf("%d of %d packets were still copied after 25 s of traffic", copies, packets)
		}
	})
}

// testESP: three clients of one server with native ESP, which no port tells
// apart, begin at once and talk at once.
func testESP(t *testing.T, l *lab.Lab) {
	copyingEnds(t, l, dialESP(t, l, l.C))
	var all []api.Session
	if err := l.Show("passthrough", &all); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.C {
		for _, kind := range []string{"ike", "esp"} {
			if !slices.ContainsFunc(all, func(s api.Session) bool {
				return s.Protocol == "ipsec" && s.Kind == kind && s.Device.String() == l.Address(h) && s.Server.String() == lab.Server2 &&
					strings.Contains(s.IDs, "spi 0x") && (kind == "ike" || s.BytesOut > 0)
			}) {
				t.Errorf("show passthrough has no %s session of %s:\n%+v", kind, h.Name, all)
			}
		}
	}
}

// testLANPPTP reaches a pptpd at home from the Internet through a port forward.
func testLANPPTP(t *testing.T, l *lab.Lab) {
	l.PPTPServer(l.C[0])
	l.Commit("set firewall forward vpn protocol tcp port 1723 to " + l.Address(l.C[0]))
	t.Cleanup(func() { l.Commit("delete firewall forward vpn") })
	wan := l.Online().WAN.Address.Addr().String()
	together(t, []*peers.Host{l.S2}, func(h *peers.Host) (*lab.Tunnel, error) { return l.PPTP(h, wan) })
	var all []api.Session
	if err := l.Show("passthrough", &all); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(s api.Session) bool {
		return s.Inbound && s.Kind == "data" && s.Device.String() == l.Address(l.C[0])
	}) {
		t.Errorf("show passthrough does not show c1 as a server: %+v", all)
	}
}

// refused wants ICMP admin-prohibited for a protocol that is off.
func refused(t *testing.T, l *lab.Lab, h *peers.Host, what, nmapArgs string) {
	t.Helper()
	// The router's answers to the session that was cut count against the
	// kernel's limit of ICMP messages a device.
	l.Until(what+" is refused with admin-prohibited", 20*time.Second, func() error {
		out := l.Sh(h, "nmap -n -Pn --reason --max-retries 1 "+nmapArgs+" "+lab.Server1)
		if !strings.Contains(out, "admin-prohibited") {
			return fmt.Errorf("nmap saw:\n%s", out)
		}
		return nil
	})
}

// testSwitches turns each protocol off under a running session, which must end,
// and on again, after which a new one must come up, without a reboot.
func testSwitches(t *testing.T, l *lab.Lab) {
	h := l.C[1]
	for _, p := range []struct {
		name   string
		server func()
		dial   func() (*lab.Tunnel, error)
		probes []string
	}{
		{"pptp", func() { l.PPTPServer(l.S1) },
			func() (*lab.Tunnel, error) { return l.PPTP(h, lab.Server1) }, []string{"-sS -p 1723", "-sO -p 47"}},
		{"l2tp", func() { l.L2TPServer(l.S1) },
			func() (*lab.Tunnel, error) { return l.L2TP(h, lab.Server1) }, []string{"-sU -p 1701", "-sO -p 115"}},
		{"ipsec", func() { l.IPsecServer(l.S1, lab.Server1, "auto") },
			func() (*lab.Tunnel, error) { return l.IPsec(h, lab.Server1, "yes") }, []string{"-sU -p 500", "-sU -p 4500", "-sO -p 50", "-sO -p 51"}},
	} {
		t.Run(p.name, func(t *testing.T) {
			l := l.For(t)
			p.server()
			tu, err := p.dial()
			if err != nil {
				t.Fatal(err)
			}
			if err := tu.Payload(3, 100); err != nil {
				t.Fatal(err)
			}
			l.Commit("set passthrough " + p.name + " off")
			if err := tu.Payload(3, 100); err == nil {
				t.Error("the running session still carries payload after off")
			}
			tu.Stop()
			for _, probe := range p.probes {
				refused(t, l, h, p.name, probe)
			}
			l.Commit("set passthrough " + p.name + " on")
			// The first attempt may meet remains of the old session at the server.
			l.Until(p.name+" after on", 90*time.Second, func() error {
				tu, err = p.dial()
				return err
			})
			defer tu.Stop()
			if err := tu.Payload(3, 100); err != nil {
				t.Errorf("after on: %v", err)
			}
		})
	}
}

// testKillNetd kills the network manager under traffic: a PPTP tunnel, a TCP
// transfer, DNS and the admin's session must not notice.
func testKillNetd(t *testing.T, l *lab.Lab) {
	l.PPTPServer(l.S1)
	tunnels := together(t, l.C[:1], func(h *peers.Host) (*lab.Tunnel, error) { return l.PPTP(h, lab.Server1) })
	ping, err := l.C[1].Start("ping", "-n", "-i", "0.1", "-c", "100", lab.Server1)
	if err != nil {
		t.Fatal(err)
	}
	session, err := l.Router.SSH("192.168.1.1") // stays open across the kill
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	old := servicePID(t, l, "netd")
	l.KillService("netd")
	for i := range 5 {
		l.Sh(l.C[2], fmt.Sprintf("dig +short +time=5 +tries=1 @192.168.1.1 www.example.com | grep -q %s # %d", lab.Server1, i))
	}
	payload(t, tunnels)
	l.Until("a new netd", 30*time.Second, func() error {
		st, err := l.Status()
		if err != nil {
			return err
		}
		for _, s := range st.Services {
			if s.Name == "netd" && s.PID != old && s.PID != 0 {
				return nil
			}
		}
		return fmt.Errorf("services %+v", st.Services)
	})
	if s, err := session.NewSession(); err != nil {
		t.Errorf("the admin's SSH connection did not survive: %v", err)
	} else {
		s.Close()
	}
	payload(t, tunnels)
	l.Until("the ping's end", 60*time.Second, func() error {
		out, exited, err := ping.Log()
		if err == nil && !exited {
			err = fmt.Errorf("still running:\n%s", out)
		}
		return err
	})
	if out, _, _ := ping.Log(); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("pings were lost while netd restarted:\n%s", out)
	}
	// The state of before is found in the kernel, so there is nothing to change.
	log, err := l.Router.Command("show log netd 300")
	if err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndex(log, "killed by SIGKILL")
	if i < 0 {
		t.Fatalf("the log does not tell of the kill:\n%s", log)
	}
	if strings.Contains(log[i:], "msg=apply") {
		t.Errorf("netd did not come back to the same state:\n%s", log[i:])
	}
}

func servicePID(t *testing.T, l *lab.Lab, name string) int {
	t.Helper()
	st, err := l.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range st.Services {
		if s.Name == name {
			return s.PID
		}
	}
	t.Fatalf("no service %s: %+v", name, st.Services)
	return 0
}
