package dns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

const (
	truth = "a.example. 60 IN A 192.0.2.1"
	lie   = "a.example. 60 IN A 198.51.100.66"
)

// TestSpoofed sends one lie before the truth, each wrong in one respect. The
// lie must neither be believed nor keep the truth out.
func TestSpoofed(t *testing.T) {
	for name, forge := range map[string]func(r *mdns.Msg){
		"id":       func(r *mdns.Msg) { r.Id++ },
		"name":     func(r *mdns.Msg) { r.Question[0].Name = "b.example." },
		"longer":   func(r *mdns.Msg) { r.Question[0].Name = "x.a.example." },
		"type":     func(r *mdns.Msg) { r.Question[0].Qtype = mdns.TypeTXT },
		"class":    func(r *mdns.Msg) { r.Question[0].Qclass = mdns.ClassCHAOS },
		"question": func(r *mdns.Msg) { r.Question = nil },
		"query":    func(r *mdns.Msg) { r.Response = false },
		"opcode":   func(r *mdns.Msg) { r.Opcode = mdns.OpcodeNotify },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
				r := reply(m, lie)
				forge(r)
				_ = w.WriteMsg(r)
				_ = w.WriteMsg(reply(m, truth))
			})
			s, addr := start(t, Options{Timeout: 2 * time.Second}, to(p))
			wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
			wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
			p.wantQueries(t, 1)
			if n := s.Stats().UpstreamFailures; n != 0 {
				t.Errorf("%d failures", n)
			}
		})
	}
}

// TestCaseIsForgiven: a server may answer in another spelling.
func TestCaseIsForgiven(t *testing.T) {
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := reply(m, truth)
		r.Question[0].Name = "A.ExAmPlE."
		_ = w.WriteMsg(r)
	})
	_, addr := start(t, Options{}, to(p))
	wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
}

// TestWrongSource: the right answer from the wrong place, first another port,
// then another address.
func TestWrongSource(t *testing.T) {
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)} {
		liar, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
		if err != nil {
			t.Fatal(err)
		}
		defer liar.Close()
		p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
			wire, _ := reply(m, lie).Pack()
			if _, err := liar.WriteTo(wire, w.RemoteAddr()); err != nil {
				t.Error(err)
			}
			_ = w.WriteMsg(reply(m, truth))
		})
		_, addr := start(t, Options{}, to(p))
		wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
	}
}

// TestGuessing: many wrong ids on one socket, as of somebody who tries all of
// them. The question moves to TCP before the good guess comes.
func TestGuessing(t *testing.T) {
	p := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		if w.LocalAddr().Network() == "tcp" {
			_ = w.WriteMsg(reply(m, truth))
			return
		}
		for i := maxWrong; i >= 0; i-- {
			r := reply(m, lie)
			r.Id += uint16(i)
			_ = w.WriteMsg(r)
		}
	})
	_, addr := start(t, Options{}, to(p))
	wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
}

// TestMalformedAnswers: the next upstream is asked, and nothing of it is kept.
func TestMalformedAnswers(t *testing.T) {
	for name, damage := range map[string]func(wire []byte) []byte{
		"record cut":        func(w []byte) []byte { return w[:len(w)-1] },
		"records missing":   func(w []byte) []byte { w[7] = 9; return w },
		"pointer to itself": func(w []byte) []byte { w[27], w[28] = 0xc0, 27; return w },
		"pointer ahead":     func(w []byte) []byte { w[27], w[28] = 0xc0, 200; return w },
		"reserved label":    func(w []byte) []byte { w[27] = 0x80; return w },
		"too long rdata":    func(w []byte) []byte { w[37] = 0xff; return w },
	} {
		t.Run(name, func(t *testing.T) {
			bad := newPeer(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
				r := reply(m, truth)
				r.Compress = true
				wire, _ := r.Pack()
				_, _ = w.Write(damage(wire))
			})
			good := answering(t, truth)
			_, addr := start(t, Options{}, to(bad, good))
			wantAnswers(t, ask(t, addr, "a.example", mdns.TypeA), truth)
			bad.wantQueries(t, 1)
			good.wantQueries(t, 1)
		})
	}
}

// TestPortsAndIDs: every question has a new socket and a new id.
func TestPortsAndIDs(t *testing.T) {
	p := answering(t)
	_, addr := start(t, Options{}, to(p))
	const n = 40
	ids, ports := make(map[uint16]bool), make(map[uint16]bool)
	for i := range n {
		ask(t, addr, string(rune('a'+i%26))+string(rune('a'+i/26))+".example", mdns.TypeA)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	lo, hi := uint16(0xffff), uint16(0)
	for i := range p.seen {
		port := netip.MustParseAddrPort(p.from[i].String()).Port()
		ids[p.seen[i].Id], ports[port] = true, true
		lo, hi = min(lo, port), max(hi, port)
	}
	if len(ids) < n-2 || len(ports) < n-4 || hi-lo < 1000 {
		t.Errorf("%d questions had %d ids and %d ports from %d to %d", n, len(ids), len(ports), lo, hi)
	}
}
