package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// sockets counts the sockets towards upstreams, and fails when an idle one has
// a port.
func (fs *firsts) sockets(t *testing.T) (idle, busy int) {
	t.Helper()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, list := range fs.idle {
		for _, s := range list {
			idle++
			sa, err := unix.Getsockname(s.fd)
			if err != nil {
				t.Fatal(err)
			}
			switch sa := sa.(type) {
			case *unix.SockaddrInet4:
				if sa.Port == 0 {
					continue
				}
			case *unix.SockaddrInet6:
				if sa.Port == 0 {
					continue
				}
			}
			t.Errorf("an idle socket has an address: %+v", sa)
		}
	}
	return idle, fs.busy
}

// TestSocketIsUsedAgain, with a new port, and has none meanwhile.
func TestSocketIsUsedAgain(t *testing.T) {
	p := answering(t)
	s, addr := start(t, Options{}, to(p))
	for i := range 5 {
		ask(t, addr, fmt.Sprintf("h%d.example", i), mdns.TypeA)
		if idle, busy := s.first.sockets(t); idle != 1 || busy != 0 {
			t.Errorf("%d sockets are idle, %d busy; want one, idle", idle, busy)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ports := make(map[string]bool)
	for _, from := range p.from {
		ports[from.String()] = true
	}
	if len(ports) < 4 {
		t.Errorf("5 questions came from %v", ports)
	}
}

// TestSocketsAreClosed when there are no questions any more.
func TestSocketsAreClosed(t *testing.T) {
	p, release := held(t)
	s, addr := start(t, Options{Timeout: time.Second}, to(p))
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 20
	for i := range n {
		_, _ = c.Write(packed(question(fmt.Sprintf("h%d.example", i), mdns.TypeA)))
	}
	await(t, "all are asked", func() bool { return p.queries.Load() == n })
	close(release)
	await(t, "all are answered", func() bool { _, busy := s.first.sockets(t); return busy == 0 })
	await(t, "most sockets are closed", func() bool { idle, _ := s.first.sockets(t); return idle == fewIdle })
	wantRcode(t, ask(t, addr, "more.example", mdns.TypeA), mdns.RcodeSuccess)
}

// TestTimeout: a question goes on to the next upstream after the time-out, not
// before it, and the socket is not used again.
func TestTimeout(t *testing.T) {
	dead, good := silent(t), answering(t, truth)
	const timeout = 200 * time.Millisecond
	s, addr := start(t, Options{Timeout: timeout}, to(dead, good))
	began := time.Now()
	wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
	if d := time.Since(began); d < timeout || d > 3*timeout {
		t.Errorf("answered after %v, the time-out is %v", d, timeout)
	}
	dead.wantQueries(t, 1)
	if idle, busy := s.first.sockets(t); idle+busy != 0 {
		t.Errorf("%d sockets are idle, %d busy", idle, busy)
	}
}

// TestIPv6: the client and the upstream.
func TestIPv6(t *testing.T) {
	l, err := Listen(context.Background(), "", netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Fatal(err)
	}
	up := &mdns.Server{PacketConn: conn, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) {
		_ = w.WriteMsg(reply(m, m.Question[0].Name+" 60 IN AAAA 2001:db8::1"))
	})}
	go func() { _ = up.ActivateAndServe() }()
	defer conn.Close()
	s := New(Options{})
	s.SetConfig(Config{Upstreams: []netip.AddrPort{conn.LocalAddr().(*net.UDPAddr).AddrPort()}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	for range 2 { // a miss, a hit
		r := ask(t, l.UDP[0].LocalAddr().String(), "a.example", mdns.TypeAAAA)
		wantAnswers(t, r, "a.example. 60 IN AAAA 2001:db8::1")
	}
	if idle, _ := s.first.sockets(t); idle != 1 {
		t.Errorf("%d sockets are idle, want 1", idle)
	}
	if st := s.Stats(); st.Hits != 1 || st.Misses != 1 {
		t.Errorf("stats: %+v", st)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestManyAtOnce: several clients, more questions than fit a batch, and of all
// kinds; each gets its own answers.
func TestManyAtOnce(t *testing.T) {
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		_ = w.WriteMsg(reply(m, m.Question[0].Name+" 60 IN A 192.0.2.1"))
	})
	_, addr := start(t, Options{}, lanConfig(p))
	const clients, each = 4, 3 * batchSize / 2
	var conns [clients]net.Conn
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("udp", addr); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	name := func(client, i int) string {
		switch i % 4 {
		case 0:
			return "pc.lan."
		case 1:
			return "shared.example." // by all clients
		}
		return fmt.Sprintf("c%d-%d.example.", client, i)
	}
	for i := range each {
		for client, c := range conns {
			m := question(name(client, i), mdns.TypeA)
			m.Id = uint16(i)
			if _, err := c.Write(packed(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for client, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		var seen [each]bool
		buf := make([]byte, 1500)
		for range each {
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			r := new(mdns.Msg)
			if err := r.Unpack(buf[:n]); err != nil {
				t.Fatal(err)
			}
			if i := int(r.Id); seen[i] || r.Question[0].Name != name(client, i) || len(r.Answer) != 1 {
				t.Fatalf("client %d, seen before %v:\n%v", client, seen[i], r)
			}
			seen[r.Id] = true
		}
	}
}

// TestRunAgain: the same server on other sockets, as when the LAN's address
// changes, with a question in flight at the end of the first run.
func TestRunAgain(t *testing.T) {
	dead, good := silent(t), answering(t, truth)
	s := New(Options{Timeout: time.Minute})
	for _, p := range []*peer{dead, good} {
		s.SetConfig(to(p))
		l := listen(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, l) }()
		if p == good {
			wantAnswers(t, ask(t, l.UDP[0].LocalAddr().String(), "a.example", mdns.TypeA), truth)
		} else {
			c, err := net.Dial("udp", l.UDP[0].LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = c.Write(packed(question("a.example", mdns.TypeA)))
			await(t, "the upstream is asked", func() bool { return p.queries.Load() == 1 })
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("Run does not end")
		}
		if idle, busy := s.first.sockets(t); idle+busy != 0 {
			t.Errorf("%d sockets are idle, %d busy", idle, busy)
		}
	}
}

// TestQueued: what came before the server looks is answered in one go, however
// much it is: nothing more comes that would wake it.
func TestQueued(t *testing.T) {
	l := listen(t)
	c, err := net.Dial("udp", l.UDP[0].LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 2*maxBatches*batchSize + 3
	for i := range n {
		m := question("culvert.lan", mdns.TypeA)
		m.Id = uint16(i)
		if _, err := c.Write(packed(m)); err != nil {
			t.Fatal(err)
		}
	}
	s := New(Options{})
	s.SetConfig(Config{Domain: "culvert.lan"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	seen := make(map[uint16]bool)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for buf := make([]byte, 512); len(seen) < n; {
		if _, err := c.Read(buf); err != nil {
			t.Errorf("%d of %d answers: %v", len(seen), n, err)
			break
		}
		seen[be16(buf)] = true
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
