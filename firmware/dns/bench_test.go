package dns

import (
	"net"
	"net/netip"
	"testing"

	mdns "github.com/miekg/dns"
)

// roundTrip sends over one socket and waits, without allocating.
func roundTrip(t testing.TB, addr string) func(pkt []byte) []byte {
	ap := netip.MustParseAddrPort(addr)
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(ap))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	buf := make([]byte, 2048)
	return func(pkt []byte) []byte {
		if _, err := c.Write(pkt); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n]
	}
}

// TestHitAllocatesNothing covers the whole way, socket to socket.
func TestHitAllocatesNothing(t *testing.T) {
	_, addr := start(t, Options{}, lanConfig(answering(t, truth)))
	rt := roundTrip(t, addr)
	for _, m := range []*mdns.Msg{
		question("a.example", mdns.TypeA),
		question("a.example", mdns.TypeA).SetEdns0(1232, false),
		question("pc.lan", mdns.TypeA), question("nobody.lan", mdns.TypeA), question("culvert.lan", mdns.TypeA),
		question("100.1.168.192.in-addr.arpa", mdns.TypePTR), question("x.local", mdns.TypeA),
	} {
		pkt := packed(m)
		rt(pkt)
		if n := testing.AllocsPerRun(200, func() { rt(pkt) }); n != 0 {
			t.Errorf("%v: %v allocations", m.Question[0], n)
		}
	}
}

func BenchmarkHit(b *testing.B) {
	s := New(Options{})
	s.SetConfig(lanConfig(&peer{addr: netip.MustParseAddrPort("192.0.2.1:53")}))
	m := question("www.example.com", mdns.TypeA)
	asked := packed(m)
	a, err := parseAnswer(packed(reply(m, "www.example.com. 3600 IN A 192.0.2.1")), asked, false)
	if err != nil {
		b.Fatal(err)
	}
	pkt := packed(m.SetEdns0(1232, false))
	var q query
	q.parse(pkt, true)
	s.cache.put(s.state.Load().pool, q.key(), a, 0)
	out := make([]byte, 0, maxLocal)
	b.ReportAllocs()
	for b.Loop() {
		if resp, _ := s.answer(s.state.Load(), &q, pkt, out, loopback, loopback, true, 0); len(resp) < 40 {
			b.Fatal("no hit")
		}
	}
}

// BenchmarkHitSocket adds the kernel's part, the client's included.
func BenchmarkHitSocket(b *testing.B) {
	_, addr := start(b, Options{}, lanConfig(answering(b, truth)))
	rt := roundTrip(b, addr)
	pkt := packed(question("a.example", mdns.TypeA))
	b.ReportAllocs()
	for b.Loop() {
		rt(pkt)
	}
}

// BenchmarkMiss has an upstream that answers at once, from bytes.
func BenchmarkMiss(b *testing.B) {
	up, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer up.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := up.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			buf[2] |= flagQR
			buf[11] = 0
			_, _ = up.WriteToUDPAddrPort(buf[:n-optLen], from)
		}
	}()
	_, addr := start(b, Options{}, to(&peer{addr: up.LocalAddr().(*net.UDPAddr).AddrPort()}))
	rt := roundTrip(b, addr)
	pkt := packed(question("a.example", mdns.TypeA))
	b.ReportAllocs()
	for b.Loop() {
		rt(pkt) // no data, no SOA: never cached
	}
}
