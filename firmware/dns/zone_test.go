package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func lanConfig(p *peer) Config {
	c := to(p)
	c.Router = netip.MustParseAddr("192.168.1.1")
	for _, h := range []string{"pc 192.168.1.100", "NAS.lan 192.168.1.5", "nas 192.168.1.6", "nas fd00::5",
		"culvert 192.168.1.66", "bad..name 192.168.1.7", "a.b.lan 192.168.1.8", "sp ace 192.168.1.9"} {
		i := strings.LastIndex(h, " ")
		c.Hosts = append(c.Hosts, Host{h[:i], netip.MustParseAddr(h[i+1:])})
	}
	return c
}

// TestLocal: a line is a question and its answers, or the code and the zone
// whose SOA comes with it.
func TestLocal(t *testing.T) {
	p := answering(t)
	_, addr := start(t, Options{}, lanConfig(p))
	for _, c := range []struct{ question, want string }{
		{"culvert.lan A", "A 192.168.1.1"},
		{"culvert A", "A 192.168.1.1"},
		{"culvert.lan AAAA", "NOERROR lan."},
		{"PC.lan A", "A 192.168.1.100"},
		{"pc A", "A 192.168.1.100"},
		{"pc AAAA", "NOERROR pc."},
		{"pc.lan AAAA", "NOERROR lan."},
		{"pc.lan HTTPS", "NOERROR lan."},
		{"pc.lan ANY", "A 192.168.1.100"},
		{"nas.lan A", "A 192.168.1.5, A 192.168.1.6"},
		{"nas.lan AAAA", "AAAA fd00::5"},
		{"nobody.lan A", "NXDOMAIN lan."},
		{"x.pc.lan A", "NXDOMAIN lan."},
		{"b.lan A", "NXDOMAIN lan."},
		{"lan SOA", "NOERROR lan."},
		{"nobody A", "NOERROR nobody."},
		{"localhost A", "A 127.0.0.1"},
		{"x.localhost AAAA", "AAAA ::1"},
		{"printer.local A", "NXDOMAIN local."},
		{"x.onion A", "NXDOMAIN onion."},
		{"x.home.arpa A", "NXDOMAIN home.arpa."},
		{"1.1.168.192.in-addr.arpa PTR", "PTR culvert.lan."},
		{"100.1.168.192.in-addr.arpa PTR", "PTR pc.lan."},
		{"100.1.168.192.in-addr.arpa A", "NOERROR 100.1.168.192.in-addr.arpa."},
		{"5.1.168.192.in-addr.arpa PTR", "PTR nas.lan."},
		{"66.1.168.192.in-addr.arpa PTR", "NXDOMAIN 66.1.168.192.in-addr.arpa."},
		{"1.168.192.in-addr.arpa SOA", "NOERROR 1.168.192.in-addr.arpa."},
		{"lb._dns-sd._udp.0.1.168.192.in-addr.arpa PTR", "NXDOMAIN 0.1.168.192.in-addr.arpa."},
		{"1.0.0.10.in-addr.arpa PTR", "NXDOMAIN 1.0.0.10.in-addr.arpa."},
		{"1.0.31.172.in-addr.arpa PTR", "NXDOMAIN 1.0.31.172.in-addr.arpa."},
		{"1.0.127.100.in-addr.arpa PTR", "NXDOMAIN 1.0.127.100.in-addr.arpa."},
		{"1.0.0.127.in-addr.arpa PTR", "PTR localhost."},
		{"5" + strings.Repeat(".0", 29) + ".d.f.ip6.arpa PTR", "PTR nas.lan."},
		{"1.8.e.f.ip6.arpa PTR", "NOERROR 1.8.e.f.ip6.arpa."},
	} {
		t.Run(c.question, func(t *testing.T) {
			name, typ, _ := strings.Cut(c.question, " ")
			r := ask(t, addr, name, mdns.StringToType[typ])
			got := mdns.RcodeToString[r.Rcode]
			if len(r.Ns) == 1 {
				got += " " + r.Ns[0].Header().Name
				if soa := r.Ns[0].(*mdns.SOA); soa.Minttl != localNegTTL || soa.Hdr.Ttl != localNegTTL {
					t.Errorf("SOA: %v", soa)
				}
			} else if len(r.Answer) > 0 {
				var as []string
				for _, rr := range r.Answer {
					if !strings.EqualFold(rr.Header().Name, mdns.Fqdn(name)) || rr.Header().Ttl != localTTL {
						t.Errorf("record: %v", rr)
					}
					as = append(as, strings.Join(strings.Fields(rr.String())[3:], " "))
				}
				got = strings.Join(as, ", ")
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if !r.Authoritative {
				t.Error("not authoritative")
			}
		})
	}
	p.wantQueries(t, 0)
}

// TestForwarded are the neighbours of what is local.
func TestForwarded(t *testing.T) {
	p := answering(t)
	_, addr := start(t, Options{}, lanConfig(p))
	for i, name := range []string{"pc.lan.example", "xlan.example", "1.0.0.11.in-addr.arpa", "1.0.32.172.in-addr.arpa",
		"1.0.63.100.in-addr.arpa", "10.in-addr.arpa.example", "8.8.8.8.in-addr.arpa", "in-addr.arpa",
		"x.256.in-addr.arpa", "1.0.0.2.ip6.arpa", "x\\003lan", "com", "."} {
		ask(t, addr, name, mdns.TypePTR)
		p.wantQueries(t, int32(i+1))
		if got := p.last().Question[0].Name; got != mdns.Fqdn(name) {
			t.Errorf("%s was forwarded as %s", name, got)
		}
	}
}

// TestZoneEdge: a label that only looks like the zone's beginning is not in it.
func TestZoneEdge(t *testing.T) {
	z := newZone(Config{Domain: "culvert.lan"}, New(Options{}).log)
	for name, local := range map[string]bool{"x.lan.": true, "lan.": true, "a\\003lan.": false, "xlan.": false, "lan.x.": false} {
		pkt, err := question(name, mdns.TypePTR).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q query
		if rcode := q.parse(pkt, true); rcode != rcodeOK {
			t.Fatal(rcode)
		}
		if got := z.apex(&q) >= 0; got != local {
			t.Errorf("%q: local is %v", name, got)
		}
	}
}

// TestRouterUnset: the router's name is the address that was asked.
func TestRouterUnset(t *testing.T) {
	_, addr := start(t, Options{}, to(answering(t)))
	wantAnswers(t, ask(t, addr, "culvert.lan", mdns.TypeA), "culvert.lan. 30 IN A 127.0.0.1")
	wantAnswers(t, ask(t, addr, "1.0.0.127.in-addr.arpa", mdns.TypePTR), "1.0.0.127.in-addr.arpa. 30 IN PTR culvert.lan.")
}

// TestManyHosts: more addresses than one response holds without EDNS.
func TestManyHosts(t *testing.T) {
	c := to(answering(t))
	name := strings.Repeat("m", 63)
	for i := range 40 {
		c.Hosts = append(c.Hosts, Host{name, netip.MustParseAddr(fmt.Sprintf("fd00::%d", i))})
	}
	_, addr := start(t, Options{}, c)
	if r := ask(t, addr, name+".lan", mdns.TypeAAAA); !r.Truncated || len(r.Answer) != 0 {
		t.Errorf("not truncated:\n%v", r)
	}
	if r := exchange(t, "tcp", addr, question(name+".lan", mdns.TypeAAAA)); len(r.Answer) != maxAddrsPerMsg {
		t.Errorf("%d answers over TCP", len(r.Answer))
	}
}

// TestListen: one device only, and an address that is not there yet.
func TestListen(t *testing.T) {
	l, err := Listen(context.Background(), "lo", netip.MustParseAddrPort("192.0.2.77:0"))
	if err != nil {
		t.Skipf("needs SO_BINDTODEVICE: %v", err)
	}
	defer l.Close()
	for _, c := range []syscall.Conn{l.UDP[0], l.TCP[0].(*net.TCPListener)} {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var dev string
		if err := raw.Control(func(fd uintptr) {
			dev, _ = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
		}); err != nil || dev != "lo" {
			t.Errorf("bound to %q, want lo (%v)", dev, err)
		}
	}
	if _, err := Listen(context.Background(), "no-such-if", netip.AddrPortFrom(loopback, 0)); err == nil ||
		!strings.Contains(err.Error(), `"no-such-if"`) {
		t.Errorf("error: %v", err)
	}
}

// TestTCPClients: several questions on one connection, and bounds on them.
func TestTCPClients(t *testing.T) {
	p := answering(t, truth)
	_, addr := start(t, Options{}, to(p))
	var conns []net.Conn
	for range maxClientConns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for _, c := range conns {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		for range 2 {
			mc := &mdns.Conn{Conn: c}
			if err := mc.WriteMsg(question("a.example", mdns.TypeA)); err != nil {
				t.Fatal(err)
			}
			r, err := mc.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			wantAnswers(t, r, truth)
		}
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("one too many got %d bytes", n)
	}
	_ = conns[0].Close()
	await(t, "a place is free", func() bool {
		r, _, err := (&mdns.Client{Net: "tcp", Timeout: time.Second}).Exchange(question("a.example", mdns.TypeA), addr)
		return err == nil && len(r.Answer) == 1
	})
}
