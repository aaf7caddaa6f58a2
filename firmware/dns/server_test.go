package dns

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// clock is a time that only tests move.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1000, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

var loopback = netip.MustParseAddr("127.0.0.1")

// start runs a server on loopback until the test ends.
func start(t testing.TB, o Options, c Config) (*Server, string) {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s := New(o)
	if c.Domain == "" {
		c.Domain = "culvert.lan"
	}
	s.SetConfig(c)
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return s, l.UDP[0].LocalAddr().String()
}

func listen(t testing.TB) Listeners {
	t.Helper()
	var err error
	for range 20 { // another process may have the port for TCP
		var l Listeners
		if l, err = Listen(context.Background(), "", netip.AddrPortFrom(loopback, 0)); err == nil {
			return l
		}
	}
	t.Fatal(err)
	return Listeners{}
}

// peer is an upstream made of miekg/dns, which shares no code with ours.
type peer struct {
	addr    netip.AddrPort
	queries atomic.Int32
	mu      sync.Mutex
	seen    []*mdns.Msg
	from    []net.Addr
}

func (p *peer) last() *mdns.Msg {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[len(p.seen)-1]
}

// newPeer serves handle over UDP and TCP on one port. handle runs for every
// question; it may answer or not.
func newPeer(t testing.TB, handle func(w mdns.ResponseWriter, m *mdns.Msg)) *peer {
	t.Helper()
	l := listen(t)
	p := &peer{addr: l.UDP[0].LocalAddr().(*net.UDPAddr).AddrPort()}
	h := mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) {
		p.mu.Lock()
		p.seen, p.from = append(p.seen, m), append(p.from, w.RemoteAddr())
		p.mu.Unlock()
		p.queries.Add(1)
		handle(w, m)
	})
	for _, srv := range []*mdns.Server{{PacketConn: l.UDP[0], Handler: h}, {Listener: l.TCP[0], Handler: h}} {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.ActivateAndServe() }()
		<-up
		t.Cleanup(func() { _ = srv.Shutdown(); <-done })
	}
	return p
}

func reply(m *mdns.Msg, records ...string) *mdns.Msg {
	r := new(mdns.Msg).SetReply(m)
	r.RecursionAvailable = true
	for _, s := range records {
		rr, err := mdns.NewRR(s)
		if err != nil {
			panic(err)
		}
		if rr.Header().Rrtype == mdns.TypeSOA {
			r.Ns = append(r.Ns, rr)
		} else {
			r.Answer = append(r.Answer, rr)
		}
	}
	return r
}

// answering is a peer that says the same records to everything.
func answering(t testing.TB, records ...string) *peer {
	return newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) { _ = w.WriteMsg(reply(m, records...)) })
}

// silent is an upstream that never answers.
func silent(t testing.TB) *peer { return newPeer(t, func(mdns.ResponseWriter, *mdns.Msg) {}) }

func to(ps ...*peer) Config {
	c := Config{}
	for _, p := range ps {
		c.Upstreams = append(c.Upstreams, p.addr)
	}
	c.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	return c
}

func question(name string, qtype uint16) *mdns.Msg {
	return new(mdns.Msg).SetQuestion(mdns.Fqdn(name), qtype)
}

func exchange(t testing.TB, network, addr string, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	c := mdns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%s query for %v: %v", network, m.Question, err)
	}
	return r
}

func ask(t testing.TB, addr, name string, qtype uint16) *mdns.Msg {
	t.Helper()
	return exchange(t, "udp", addr, question(name, qtype))
}

func wantRcode(t testing.TB, r *mdns.Msg, rcode int) {
	t.Helper()
	if r.Rcode != rcode {
		t.Fatalf("got %s, want %s:\n%v", mdns.RcodeToString[r.Rcode], mdns.RcodeToString[rcode], r)
	}
}

// wantAnswers compares the answer section, one record a string.
func wantAnswers(t testing.TB, r *mdns.Msg, want ...string) {
	t.Helper()
	wantRcode(t, r, mdns.RcodeSuccess)
	if len(r.Answer) != len(want) {
		t.Fatalf("got %d answers, want %d:\n%v", len(r.Answer), len(want), r)
	}
	for i, s := range want {
		rr, err := mdns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		if r.Answer[i].String() != rr.String() {
			t.Errorf("answer %d:\n got %v\nwant %v", i, r.Answer[i], rr)
		}
	}
}

func (p *peer) wantQueries(t testing.TB, n int32) {
	t.Helper()
	if got := p.queries.Load(); got != n {
		t.Fatalf("the upstream was asked %d times, want %d", got, n)
	}
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
