package dns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// held is an upstream that answers when release is closed.
func held(t *testing.T) (p *peer, release chan struct{}) {
	release = make(chan struct{})
	p = newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		<-release
		_ = w.WriteMsg(reply(m, m.Question[0].Name+" 60 IN A 192.0.2.1"))
	})
	return p, release
}

func TestCoalescing(t *testing.T) {
	p, release := held(t)
	s, addr := start(t, Options{Timeout: 5 * time.Second}, to(p))
	const n = 10
	got := make(chan error, n)
	for i := range n {
		go func() {
			name := []string{"a.example.", "A.example."}[i%2]
			network := []string{"udp", "udp", "tcp"}[i%3]
			q := question(name, mdns.TypeA)
			r, _, err := (&mdns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, addr)
			if err == nil && (len(r.Answer) != 1 || r.Question[0].Name != name) {
				err = fmt.Errorf("wrong answer:\n%v", r)
			}
			got <- err
		}()
	}
	await(t, "all questions wait", func() bool { return s.Stats().Misses == n })
	close(release)
	for range n {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	p.wantQueries(t, 1)
}

// TestInFlightBound: what is too much is told so at once, and the places are
// free again afterwards.
func TestInFlightBound(t *testing.T) {
	p, release := held(t)
	const bound = 8
	s, addr := start(t, Options{Timeout: 5 * time.Second, MaxInFlight: bound}, to(p))
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(i int) {
		wire, _ := question(fmt.Sprintf("h%d.example", i), mdns.TypeA).Pack()
		if _, err := c.Write(wire); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() *mdns.Msg {
		buf := make([]byte, 1500)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		r := new(mdns.Msg)
		if err := r.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i := range 20 {
		send(i)
	}
	for range 20 - bound/2 { // one client gets half
		wantRcode(t, receive(), mdns.RcodeServerFailure)
	}
	if n := s.flights.inFlight(); n != bound/2 {
		t.Errorf("%d in flight, want %d", n, bound/2)
	}
	var q query
	pkt, _ := question("other.example", mdns.TypeA).Pack()
	for i := range bound { // other clients get the other half
		pkt[13] = byte('a' + i)
		q.parse(pkt, true)
		w := &waiter{reply: make(chan []byte, 1), to: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 0)}
		if ok := s.ask(&q, w); ok != (i < bound/2) {
			t.Errorf("client %d: %v", i, ok)
		}
	}
	close(release)
	for range bound / 2 {
		wantRcode(t, receive(), mdns.RcodeSuccess)
	}
	await(t, "all places are free", func() bool { return s.flights.inFlight() == 0 })
	send(99)
	wantRcode(t, receive(), mdns.RcodeSuccess)
	await(t, "clients are forgotten", func() bool {
		s.flights.mu.Lock()
		defer s.flights.mu.Unlock()
		return s.flights.of(loopback) == 0
	})
}

// TestRepetition: a client that asks again the same waits once.
func TestRepetition(t *testing.T) {
	p, release := held(t)
	s, addr := start(t, Options{Timeout: 5 * time.Second}, to(p))
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wire, _ := question("a.example", mdns.TypeA).Pack()
	for range 5 {
		_, _ = c.Write(wire)
	}
	await(t, "all are in", func() bool { return s.Stats().Misses == 5 })
	close(release)
	buf := make([]byte, 512)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(buf); err != nil {
		t.Fatal(err)
	}
	// The next response is the one to the next question: there was no second.
	wire[0]++
	_, _ = c.Write(wire)
	if _, err := c.Read(buf); err != nil || buf[0] != wire[0] {
		t.Errorf("a second response to one question (%v)", err)
	}
}

func TestCacheBounds(t *testing.T) {
	var c cache
	c.resize(100)
	owner := &pool{}
	c.clear(owner)
	mk := func(n int) *answer { return &answer{msg: make([]byte, n), ttl: 10} }
	for i := range 1000 {
		c.put(owner, fmt.Append(nil, i), mk(50), 0)
		if a, _ := c.get([]byte("0"), 0); a == nil {
			t.Fatalf("the one in use was evicted after %d", i)
		}
	}
	if _, _, n := c.stats(); n != 100 {
		t.Errorf("%d entries, want 100", n)
	}
	if a, _ := c.get([]byte("901"), 0); a == nil {
		t.Error("a recent one is missing")
	}
	if a, _ := c.get([]byte("900"), 0); a != nil {
		t.Error("the oldest one is still there")
	}
	for i := range 100 {
		c.put(owner, fmt.Append(nil, "big", i), mk(4000), 0)
	}
	if c.bytes > 100*bytesPerEntry {
		t.Errorf("%d bytes", c.bytes)
	}
	c.put(owner, []byte("huge"), mk(maxCachedMsg+1), 0)
	c.put(&pool{}, []byte("stranger"), mk(50), 0)
	for _, key := range []string{"huge", "stranger"} {
		if a, _ := c.get([]byte(key), 0); a != nil {
			t.Errorf("%s is cached", key)
		}
	}
	c.resize(-1)
	c.put(owner, []byte("x"), mk(50), 0)
	if _, _, n := c.stats(); n != 0 || c.bytes != 0 {
		t.Errorf("no cache has %d entries, %d bytes", n, c.bytes)
	}
}
