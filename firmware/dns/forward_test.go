package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestCacheAndTTL(t *testing.T) {
	var ck clock
	p := answering(t, "www.example.com. 300 IN CNAME a.example.com.", "a.example.com. 60 IN A 192.0.2.1")
	s, addr := start(t, Options{Now: ck.now}, to(p))
	q := question("www.Example.com", mdns.TypeA)
	r := exchange(t, "udp", addr, q)
	wantAnswers(t, r, "www.example.com. 300 IN CNAME a.example.com.", "a.example.com. 60 IN A 192.0.2.1")
	if r.Question[0].Name != "www.Example.com." || !r.RecursionAvailable || r.Authoritative {
		t.Errorf("not as a forwarder should answer:\n%v", r)
	}
	ck.advance(59 * time.Second)
	for _, network := range []string{"udp", "tcp"} {
		r = exchange(t, network, addr, question("WWW.example.COM", mdns.TypeA))
		wantAnswers(t, r, "www.example.com. 241 IN CNAME a.example.com.", "a.example.com. 1 IN A 192.0.2.1")
		if r.Question[0].Name != "WWW.example.COM." {
			t.Errorf("the question came back as %s", r.Question[0].Name)
		}
	}
	p.wantQueries(t, 1)
	ck.advance(time.Second)
	ask(t, addr, "www.example.com", mdns.TypeA)
	p.wantQueries(t, 2)
	st := s.Stats()
	if st.Queries != 4 || st.Hits != 2 || st.Misses != 2 || st.Entries != 1 || st.UpstreamFailures != 0 {
		t.Errorf("stats: %+v", st)
	}
}

// TestManyRecords: all of an answer's TTLs age, however many there are.
func TestManyRecords(t *testing.T) {
	var ck clock
	var records, aged []string
	for i := range 40 {
		records = append(records, fmt.Sprintf("a.example. 60 IN A 192.0.2.%d", i))
		aged = append(aged, fmt.Sprintf("a.example. 50 IN A 192.0.2.%d", i))
	}
	_, addr := start(t, Options{Now: ck.now}, to(answering(t, records...)))
	wantAnswers(t, exchange(t, "tcp", addr, question("a.example", mdns.TypeA)), records...)
	ck.advance(10 * time.Second)
	wantAnswers(t, exchange(t, "tcp", addr, question("a.example", mdns.TypeA)), aged...)
}

func TestNotCached(t *testing.T) {
	for _, record := range []string{"a.example. 0 IN A 192.0.2.1", "a.example. 2147483648 IN A 192.0.2.1", ""} {
		t.Run(record, func(t *testing.T) {
			p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
				r := reply(m)
				if record != "" {
					r = reply(m, record)
				}
				_ = w.WriteMsg(r)
			})
			_, addr := start(t, Options{}, to(p))
			ask(t, addr, "a.example", mdns.TypeA)
			ask(t, addr, "a.example", mdns.TypeA)
			p.wantQueries(t, 2)
		})
	}
}

func TestNegativeCaching(t *testing.T) {
	soa := "example. 900 IN SOA ns.example. h.example. 1 2 3 4 %d"
	for _, c := range []struct {
		name    string
		rcode   int
		minimum int
		ttl     time.Duration
	}{
		{"nxdomain, SOA minimum below its TTL", mdns.RcodeNameError, 60, 60 * time.Second},
		{"no data, SOA TTL below the minimum", mdns.RcodeSuccess, 3600, 900 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ck clock
			p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
				r := reply(m, fmt.Sprintf(soa, c.minimum))
				r.Rcode = c.rcode
				_ = w.WriteMsg(r)
			})
			_, addr := start(t, Options{Now: ck.now}, to(p))
			ask(t, addr, "no.example", mdns.TypeA)
			ck.advance(c.ttl - time.Second)
			r := ask(t, addr, "no.example", mdns.TypeA)
			wantRcode(t, r, c.rcode)
			if len(r.Ns) != 1 || r.Ns[0].Header().Ttl != 1 {
				t.Errorf("want the SOA with one second left:\n%v", r)
			}
			p.wantQueries(t, 1)
			ck.advance(time.Second)
			ask(t, addr, "no.example", mdns.TypeA)
			p.wantQueries(t, 2)
		})
	}
}

func TestServFailIsKeptBriefly(t *testing.T) {
	var ck clock
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		_ = w.WriteMsg(new(mdns.Msg).SetRcode(m, mdns.RcodeServerFailure))
	})
	s, addr := start(t, Options{Now: ck.now}, to(p))
	wantRcode(t, ask(t, addr, "a.example", mdns.TypeA), mdns.RcodeServerFailure)
	wantRcode(t, ask(t, addr, "a.example", mdns.TypeA), mdns.RcodeServerFailure)
	p.wantQueries(t, 1)
	ck.advance(time.Second)
	ask(t, addr, "a.example", mdns.TypeA)
	p.wantQueries(t, 2)
	if n := s.Stats().UpstreamFailures; n != 2 {
		t.Errorf("%d failures, want 2", n)
	}
}

func bigTXT(n int) []string {
	var rs []string
	for i := range n {
		rs = append(rs, fmt.Sprintf("big.example. 60 IN TXT \"%03d%s\"", i, strings.Repeat("x", 97)))
	}
	return rs
}

func TestTruncation(t *testing.T) {
	records := bigTXT(9) // 1000 bytes and something
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := reply(m, records...)
		if w.LocalAddr().Network() == "udp" {
			r.Truncate(512) // whatever the query allows
		}
		_ = w.WriteMsg(r)
	})
	_, addr := start(t, Options{}, to(p))
	r := ask(t, addr, "big.example", mdns.TypeTXT)
	if !r.Truncated || len(r.Answer) != 0 {
		t.Errorf("512 bytes cannot hold this:\n%v", r)
	}
	if p.from[0].Network() != "udp" || p.from[1].Network() != "tcp" {
		t.Errorf("asked from %v, want UDP, then TCP", p.from)
	}
	q := question("big.example", mdns.TypeTXT).SetEdns0(4096, false)
	r = exchange(t, "udp", addr, q)
	wantAnswers(t, r, records...)
	if o := r.IsEdns0(); o == nil || o.UDPSize() != ednsSize || o.Do() {
		t.Errorf("OPT of the response: %v", o)
	}
	q = question("big.example", mdns.TypeTXT).SetEdns0(900, false)
	if r = exchange(t, "udp", addr, q); !r.Truncated {
		t.Errorf("900 bytes cannot hold this:\n%v", r)
	}
	wantAnswers(t, exchange(t, "tcp", addr, question("big.example", mdns.TypeTXT)), records...)
	p.wantQueries(t, 2)
	if o := p.last().IsEdns0(); o == nil || o.UDPSize() != ednsSize {
		t.Errorf("OPT towards the upstream: %v", o)
	}
}

// TestHugeAnswer has more than the cache takes and more than EDNS may carry.
func TestHugeAnswer(t *testing.T) {
	records := bigTXT(500)
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := reply(m, records...)
		if w.LocalAddr().Network() == "udp" {
			r.Truncate(512)
		}
		_ = w.WriteMsg(r)
	})
	s, addr := start(t, Options{}, to(p))
	q := question("big.example", mdns.TypeTXT).SetEdns0(65535, false)
	if r := exchange(t, "udp", addr, q); !r.Truncated {
		t.Error("not truncated")
	}
	wantAnswers(t, exchange(t, "tcp", addr, question("big.example", mdns.TypeTXT)), records...)
	if n := s.Stats().Entries; n != 0 {
		t.Errorf("%d entries: it should not be cached", n)
	}
}

func TestDNSSECBits(t *testing.T) {
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := reply(m, "a.example. 60 IN A 192.0.2.1")
		r.AuthenticatedData = true
		if m.IsEdns0().Do() {
			r.SetEdns0(1232, true)
		}
		_ = w.WriteMsg(r)
	})
	_, addr := start(t, Options{}, to(p))
	ask(t, addr, "a.example", mdns.TypeA)
	q := question("a.example", mdns.TypeA).SetEdns0(1232, true)
	q.CheckingDisabled = true
	r := exchange(t, "udp", addr, q)
	p.wantQueries(t, 2) // an answer with signatures is another answer
	if up := p.last(); !up.CheckingDisabled || !up.IsEdns0().Do() {
		t.Errorf("CD and DO did not reach the upstream:\n%v", up)
	}
	if !r.CheckingDisabled || !r.IsEdns0().Do() || r.AuthenticatedData {
		t.Errorf("want CD and DO, and no AD, which we cannot vouch for:\n%v", r)
	}
}

// TestOldUpstream knows no EDNS.
func TestOldUpstream(t *testing.T) {
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		if m.IsEdns0() != nil {
			h := new(mdns.Msg)
			h.Id, h.Response, h.Rcode = m.Id, true, mdns.RcodeFormatError
			_ = w.WriteMsg(h)
			return
		}
		_ = w.WriteMsg(reply(m, m.Question[0].Name+" 60 IN A 192.0.2.1"))
	})
	_, addr := start(t, Options{}, to(p))
	wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), "a.example. 60 IN A 192.0.2.1")
	p.wantQueries(t, 2)
	wantAnswers(t, ask(t, addr, "b.example", mdns.TypeA), "b.example. 60 IN A 192.0.2.1")
	p.wantQueries(t, 3) // it is remembered
}

func TestFailOver(t *testing.T) {
	dead, lame := silent(t), newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		_ = w.WriteMsg(new(mdns.Msg).SetRcode(m, mdns.RcodeRefused))
	})
	closed := &peer{addr: closedPort(t)}
	for _, bad := range []*peer{dead, lame, closed} {
		good := answering(t, "a.example. 0 IN A 192.0.2.1")
		_, addr := start(t, Options{Timeout: 100 * time.Millisecond}, to(bad, good))
		before := bad.queries.Load()
		wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), "a.example. 0 IN A 192.0.2.1")
		wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), "a.example. 0 IN A 192.0.2.1")
		good.wantQueries(t, 2)
		if n := bad.queries.Load() - before; n > 1 {
			t.Errorf("the failed upstream was asked %d times, want once: the working one is preferred", n)
		}
	}
}

func closedPort(t *testing.T) netip.AddrPort {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestRetriesAreBounded: all upstreams are dead.
func TestRetriesAreBounded(t *testing.T) {
	a, b := silent(t), silent(t)
	s, addr := start(t, Options{Timeout: 20 * time.Millisecond}, to(a, b))
	wantRcode(t, ask(t, addr, "a.example", mdns.TypeA), mdns.RcodeServerFailure)
	if n := a.queries.Load() + b.queries.Load(); n != maxAttempts {
		t.Errorf("%d attempts, want %d", n, maxAttempts)
	}
	if n := s.Stats().UpstreamFailures; n != 1 {
		t.Errorf("%d failures, want 1", n)
	}
}

// TestNewUpstreams: a question that waits for dead upstreams gets its answer
// from the ones that replace them, and nothing of the old ones is kept.
func TestNewUpstreams(t *testing.T) {
	dead := silent(t)
	s, addr := start(t, Options{Timeout: time.Minute}, to(dead))
	got := make(chan *mdns.Msg, 1)
	go func() {
		r, _, _ := (&mdns.Client{Timeout: 5 * time.Second}).Exchange(question("a.example", mdns.TypeA), addr)
		got <- r
	}()
	await(t, "the first upstream is asked", func() bool { return dead.queries.Load() > 0 })
	good := answering(t, "a.example. 60 IN A 192.0.2.1")
	s.SetConfig(to(good))
	r := <-got
	if r == nil {
		t.Fatal("no answer")
	}
	wantAnswers(t, r, "a.example. 60 IN A 192.0.2.1")

	c := to(good)
	c.Hosts = []Host{{"pc", netip.MustParseAddr("192.168.1.9")}}
	s.SetConfig(c)
	ask(t, addr, "a.example", mdns.TypeA)
	good.wantQueries(t, 1) // same upstreams, the cache is kept
	other := answering(t, "a.example. 60 IN A 192.0.2.2")
	s.SetConfig(to(other))
	wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), "a.example. 60 IN A 192.0.2.2")
}

func TestNoUpstreams(t *testing.T) {
	_, addr := start(t, Options{}, to())
	wantRcode(t, ask(t, addr, "a.example", mdns.TypeA), mdns.RcodeServerFailure)
}

func TestClients(t *testing.T) {
	p := answering(t, "a.example. 60 IN A 192.0.2.1")
	s := New(Options{})
	c := to(p)
	c.Clients = []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}
	s.SetConfig(c)
	pkt, _ := question("culvert.lan", mdns.TypeA).Pack()
	for from, want := range map[string]byte{"192.168.1.7": rcodeNXDomain, "192.168.2.7": rcodeRefused, "10.0.0.1": rcodeRefused} {
		pkt, _ = question("x.local", mdns.TypeA).Pack()
		var q query
		resp, _ := s.answer(s.state.Load(), &q, pkt, nil, netip.MustParseAddr(from), loopback, true, 0)
		if got := resp[3] & 15; got != want {
			t.Errorf("%s: code %d, want %d", from, got, want)
		}
	}
	s.SetConfig(Config{})
	var q query
	resp, _ := s.answer(s.state.Load(), &q, pkt, nil, netip.MustParseAddr("192.168.1.7"), loopback, true, 0)
	if resp[3]&15 != rcodeRefused {
		t.Error("without client networks everybody is refused")
	}
}

func TestKindsNotServed(t *testing.T) {
	p := answering(t, "a.example. 60 IN A 192.0.2.1")
	_, addr := start(t, Options{}, to(p))
	r := ask(t, addr, "a.example", mdns.TypeANY)
	wantAnswers(t, r, `a.example. 3600 IN HINFO "RFC8482" ""`)
	wantRcode(t, exchange(t, "tcp", addr, question("a.example", mdns.TypeAXFR)), mdns.RcodeRefused)
	q := question("version.bind", mdns.TypeTXT)
	q.Question[0].Qclass = mdns.ClassCHAOS
	wantRcode(t, exchange(t, "udp", addr, q), mdns.RcodeRefused)
	wantRcode(t, exchange(t, "udp", addr, new(mdns.Msg).SetNotify("a.example.")), mdns.RcodeNotImplemented)
	q = question("a.example", mdns.TypeA)
	q.RecursionDesired = false
	wantRcode(t, exchange(t, "udp", addr, q), mdns.RcodeRefused)
	q = question("a.example", mdns.TypeA).SetEdns0(1232, false)
	q.IsEdns0().SetVersion(1)
	wantRcode(t, exchange(t, "udp", addr, q), mdns.RcodeBadVers)
	p.wantQueries(t, 0)
}
