package dns

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func packed(m *mdns.Msg) []byte {
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return wire
}

// damage adds msg cut off at every place, and with one byte after the other
// at its largest: what a missing check of a length or a pointer falls over.
func damage(f *testing.F, msg []byte) {
	for i := range msg {
		f.Add(msg[:i:i])
		b := bytes.Clone(msg)
		b[i] = 0xff
		f.Add(b)
	}
}

// FuzzServePacket: whatever comes, what goes out is a response to it that
// another implementation can read, and no longer than allowed.
func FuzzServePacket(f *testing.F) {
	s := New(Options{})
	p := &peer{addr: netip.MustParseAddrPort("192.0.2.1:53")}
	s.SetConfig(lanConfig(p))
	cached := question("a.example", mdns.TypeA)
	var q query
	q.parse(packed(cached), true)
	a, err := parseAnswer(packed(reply(cached, bigTXT(12)...)), q.head, false)
	if err != nil {
		f.Fatal(err)
	}
	a.ttl = maxTTL
	s.cache.put(s.state.Load().pool, q.key(), a, 0)

	for _, name := range []string{"a.example", "pc.lan", "nobody.lan", "5.1.168.192.in-addr.arpa", "x.local", ".",
		"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"} {
		m := question(name, mdns.TypeA)
		f.Add(packed(m))
		m.Question[0].Qtype = mdns.TypeANY
		f.Add(packed(m.SetEdns0(4096, true)))
	}
	damage(f, packed(question("a.example", mdns.TypeA).SetEdns0(4096, true)))
	long := packed(question(".", mdns.TypeA))
	long = append(long[:headerLen:headerLen], bytes.Repeat(append([]byte{63}, bytes.Repeat([]byte{'a'}, 63)...), 5)...)
	f.Add(append(long, 0, 0, typeA, 0, classIN)) // a name of 320 bytes
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xc0, 0x0c}, 300))
	out := make([]byte, 0, maxLocal)
	f.Fuzz(func(t *testing.T, pkt []byte) {
		for _, udp := range []bool{true, false} {
			var q query
			resp, ask := s.answer(s.state.Load(), &q, pkt, out, loopback, loopback, udp, 0)
			if resp == nil && !ask {
				if len(pkt) >= headerLen && pkt[2]&flagQR == 0 {
					t.Fatal("no response")
				}
				continue
			}
			if ask {
				resp = failure(newFlight(&q, loopback).question).render(nil, &q.asker, 0)
			}
			if len(resp) < headerLen || resp[0] != pkt[0] || resp[1] != pkt[1] || resp[2]&flagQR == 0 || len(resp) > q.limit {
				t.Fatalf("%d bytes, limit %d: % x", len(resp), q.limit, resp)
			}
			if err := new(mdns.Msg).Unpack(resp); err != nil && new(mdns.Msg).Unpack(pkt) == nil {
				t.Fatalf("%v: % x", err, resp)
			}
		}
	})
}

// FuzzParse feeds answers of upstreams to the parser, and what it accepts to
// the renderer.
func FuzzParse(f *testing.F) {
	m := question("a.example", mdns.TypeA)
	var q query
	q.parse(packed(m), true)
	asked := bytes.Clone(q.head)
	for _, compress := range []bool{true, false} {
		r := reply(m, "a.example. 9 IN CNAME b.example.", "b.example. 60 IN A 192.0.2.1", "example. 9 IN SOA n.example. h.example. 1 2 3 4 5")
		r.Compress = compress
		f.Add(packed(r))
		f.Add(packed(r.SetEdns0(1232, true)))
		damage(f, packed(r))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		msg = bytes.Clone(msg)
		if len(msg) >= 2 {
			copy(msg, asked[:2])
		}
		whole := bytes.Clone(msg)
		a, err := parseAnswer(msg, asked, len(msg)%2 == 0)
		if err != nil {
			return
		}
		if a.ttl > maxTTL || len(a.msg) < a.qend || len(a.msg) > len(msg)+len(asked) {
			t.Fatalf("%+v", a)
		}
		age := uint32(0)
		if a.ttl > 1 {
			age = a.ttl - 1
		}
		resp := a.render(nil, &asker{head: asked, limit: 0xffff, edns: true}, age)
		for i := 0; i < len(a.ttls); i += 2 {
			at := be16(a.ttls[i:])
			if ttl := be32(resp[at:]); ttl > maxTTL {
				t.Fatalf("TTL %d", ttl)
			}
			// A compression pointer may lead into a TTL: not to be compared then.
			put32(resp[at:], 0)
			put32(whole[at:], 0)
		}
		in, out := new(mdns.Msg), new(mdns.Msg)
		if in.Unpack(whole) != nil || len(in.Question) == 0 {
			return // records' contents are not ours to check; a bare error has none
		}
		if err := out.Unpack(resp); err != nil || len(in.Answer) != len(out.Answer) {
			t.Fatalf("%v, %d answers of %d", err, len(out.Answer), len(in.Answer))
		}
	})
}

// TestGarbage: after much of it on the port, the server still answers.
func TestGarbage(t *testing.T) {
	_, addr := start(t, Options{}, lanConfig(answering(t)))
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3000 {
		pkt := make([]byte, i%600)
		for j := range pkt {
			pkt[j] = byte(i*j>>3 ^ j)
		}
		_, _ = c.Write(pkt)
	}
	tcp, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	_, _ = tcp.Write([]byte{0, 3, 1, 2, 3})
	_ = tcp.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := tcp.Read(make([]byte, 1)); err == nil {
		t.Errorf("garbage was answered with %d bytes", n)
	}
	// The kernel drops what the socket's queue cannot hold, a good question too:
	// ask again, as every client does.
	await(t, "an answer after the garbage", func() bool {
		r, _, err := (&mdns.Client{Timeout: 300 * time.Millisecond}).Exchange(question("pc.lan", mdns.TypeA), addr)
		return err == nil && len(r.Answer) == 1
	})
}
