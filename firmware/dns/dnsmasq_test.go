package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// dnsmasq starts a real name server on loopback with args, and ends it with
// the test.
func dnsmasq(t *testing.T, args ...string) *peer {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		path = "/usr/sbin/dnsmasq"
		if _, err := exec.LookPath(path); err != nil {
			t.Skip("needs dnsmasq (package dnsmasq-base)")
		}
	}
	for range 5 { // the free port may be taken before dnsmasq has it
		p := &peer{addr: closedPort(t)}
		cmd := exec.Command(path, append([]string{"--conf-file=/dev/null", "--no-resolv",
			"--no-hosts", "--no-daemon", "--user=root", "--pid-file", "--bind-interfaces", "--listen-address=127.0.0.1",
			fmt.Sprint("--port=", p.addr.Port())}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		if answers(p.addr.String(), ended) {
			t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
			return p
		}
		_ = cmd.Process.Kill()
		<-ended
		if !strings.Contains(out.String(), "in use") {
			t.Fatalf("dnsmasq does not start:\n%s", out.String())
		}
	}
	t.Fatal("no free port for dnsmasq")
	return nil
}

func answers(addr string, ended <-chan struct{}) bool {
	c := mdns.Client{Timeout: 200 * time.Millisecond}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if _, _, err := c.Exchange(question("ready.example", mdns.TypeA), addr); err == nil {
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

// TestDnsmasqUpstream forwards to a real server that is authoritative for
// example.org.
func TestDnsmasqUpstream(t *testing.T) {
	args := []string{"--auth-server=ns.example.org,lo", "--auth-zone=example.org", "--auth-ttl=600",
		"--auth-soa=7,hostmaster.example.org,1200,180,1209600",
		"--host-record=www.example.org,192.0.2.10,2001:db8::10", "--cname=alias.example.org,www.example.org"}
	for i := range 40 {
		args = append(args, fmt.Sprintf("--txt-record=big.example.org,%03d%s", i, strings.Repeat("y", 80)))
	}
	var ck clock
	s, addr := start(t, Options{Now: ck.now, Timeout: 2 * time.Second}, to(dnsmasq(t, args...)))

	r := ask(t, addr, "alias.example.org", mdns.TypeA)
	wantAnswers(t, r, "alias.example.org. 600 IN CNAME www.example.org.", "www.example.org. 600 IN A 192.0.2.10")
	ck.advance(100 * time.Second)
	r = ask(t, addr, "alias.example.org", mdns.TypeA)
	wantAnswers(t, r, "alias.example.org. 500 IN CNAME www.example.org.", "www.example.org. 500 IN A 192.0.2.10")
	wantAnswers(t, ask(t, addr, "www.example.org", mdns.TypeAAAA), "www.example.org. 600 IN AAAA 2001:db8::10")

	for range 2 {
		r = ask(t, addr, "none.example.org", mdns.TypeA)
		wantRcode(t, r, mdns.RcodeNameError)
		if len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != mdns.TypeSOA {
			t.Errorf("no SOA:\n%v", r)
		}
		wantAnswers(t, ask(t, addr, "www.example.org", mdns.TypeMX))
	}
	if st := s.Stats(); st.Hits != 3 || st.Misses != 4 || st.UpstreamFailures != 0 {
		t.Errorf("stats: %+v", st)
	}

	if r = ask(t, addr, "big.example.org", mdns.TypeTXT); !r.Truncated {
		t.Error("not truncated")
	}
	if r = exchange(t, "tcp", addr, question("big.example.org", mdns.TypeTXT)); len(r.Answer) != 40 {
		t.Errorf("%d of 40 records", len(r.Answer))
	}
}

// TestDnsmasqFailOver has a real server behind one whose port is closed.
func TestDnsmasqFailOver(t *testing.T) {
	dead := &peer{addr: closedPort(t)}
	live := dnsmasq(t, "--host-record=www.example.org,192.0.2.10,60")
	s, addr := start(t, Options{Timeout: 2 * time.Second}, to(dead, live))
	wantAnswers(t, ask(t, addr, "www.example.org", mdns.TypeA), "www.example.org. 60 IN A 192.0.2.10")
	if got := s.state.Load().pool.preferred.Load(); got != 1 {
		t.Errorf("upstream %d is preferred, want 1", got)
	}
}

// TestDig asks as people do, with the tool's default EDNS and cookie.
func TestDig(t *testing.T) {
	path, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("needs dig (package dnsutils)")
	}
	_, addr := start(t, Options{}, lanConfig(answering(t, truth)))
	ap := netip.MustParseAddrPort(addr)
	for _, c := range []struct{ args, want string }{
		{"a.example A", "192.0.2.1"},
		{"+tcp a.example A", "192.0.2.1"},
		{"+dnssec pc.lan A", "192.168.1.100"},
		{"-x 192.168.1.1", "culvert.lan."},
	} {
		args := append([]string{"@127.0.0.1", "-p", fmt.Sprint(ap.Port()), "+short", "+tries=1"}, strings.Fields(c.args)...)
		out, err := exec.Command(path, args...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("dig %s: %q, %v; want %q", c.args, got, err, c.want)
		}
	}
}
