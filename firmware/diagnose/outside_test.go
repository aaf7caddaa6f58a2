package diagnose_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/diagnose"
)

var (
	beside = netip.MustParseAddr("198.51.100.12")
	spis   = []byte{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
)

// payload is one of IKE.
type payload struct {
	kind byte
	body []byte
}

// ikeOf is a message with payloads, by SPIs.
func ikeOf(spis []byte, version, exchange, flags byte, payloads ...payload) []byte {
	b := append(bytes.Clone(spis), 0, version, exchange, flags, 0, 0, 0, 0, 0, 0, 0, 0)
	next := 16
	for _, p := range payloads {
		b[next] = p.kind
		next = len(b)
		b = append(append(b, 0, 0, byte((len(p.body)+4)>>8), byte(len(p.body)+4)), p.body...)
	}
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
	return b
}

// watching is a Watch that got packets of both sides, and what it tells of a part.
func watching(part diagnose.Part, lan, out [][]byte, aside ...netip.Addr) diagnose.Flow {
	w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan, Aside: aside}
	for _, b := range lan {
		w.LAN(b, time.Second)
	}
	for _, b := range out {
		w.WAN(b, time.Second)
	}
	for _, f := range w.Flows(2 * time.Second) {
		if f.Part == part {
			return f
		}
	}
	return diagnose.Flow{}
}

// greKey is PPTP's GRE with a call ID.
func greKey(src, dst netip.Addr, call byte) []byte {
	return ip(47, src, dst, 0x30, 1, 0x88, 0x0b, 0, 4, 0, call, 0, 0, 0, 1, 0xff, 3, 0xc0, 0x21)
}

// outgoingCall is PPTP's request with a call ID, RFC 2637 2.7.
func outgoingCall(src netip.Addr, call byte) []byte {
	request := []byte{0, 168, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 7, 0, 0, 0, call}
	return ip(6, src, server, ports(4000, 1723, append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0x50, 24, 0, 0, 0, 0, 0, 0}, request...)...)...)
}

// TestStray: answers from where nobody called are told from those of others.
func TestStray(t *testing.T) {
	request := ikeOf(spis, 0x20, 34, 8)
	other := ikeOf(append([]byte{9}, spis[1:]...), 0x20, 34, 0x20)
	sent := [][]byte{udp(device, server, 500, 500, request...)}
	left := udp(wan, server, 500, 500, request...)
	for name, c := range map[string]struct {
		part     diagnose.Part
		lan, wan [][]byte
		aside    []netip.Addr
		want     uint64
		from     string
	}{
		"another address": {diagnose.IKE, sent, [][]byte{left, udp(beside, wan, 500, 500, request...), udp(beside, wan, 500, 500, request...)}, nil, 2, "198.51.100.12:500"},
		"another port":    {diagnose.IKE, sent, [][]byte{left, udp(server, wan, 1024, 500, request...)}, nil, 1, "198.51.100.10:1024"},
		"of another SA":   {diagnose.IKE, sent, [][]byte{left, udp(beside, wan, 500, 500, other...)}, nil, 0, "invalid AddrPort"},
		"to another port": {diagnose.IKE, sent, [][]byte{left, udp(beside, wan, 500, 501, request...)}, nil, 0, "invalid AddrPort"},
		"of a server that was called, too": {diagnose.L2TP, [][]byte{udp(device, server, 1701, 1701)}, [][]byte{udp(wan, server, 1701, 1701), udp(beside, wan, 1701, 1701)},
			[]netip.Addr{beside}, 0, "invalid AddrPort"},
		"by a translated port": {diagnose.L2TP, [][]byte{udp(device, server, 1701, 1701)}, [][]byte{udp(wan, server, 6000, 1701), udp(beside, wan, 1701, 6000)}, nil, 1, "198.51.100.12:1701"},
		"by the call ID":       {diagnose.GRE, [][]byte{greKey(device, server, 3)}, [][]byte{outgoingCall(wan, 7), greKey(beside, wan, 7), greKey(beside, wan, 8)}, nil, 1, "198.51.100.12:0"},
		"ESP":                  {diagnose.ESP, [][]byte{ip(50, device, server, 0, 0, 1, 1)}, [][]byte{ip(50, wan, server, 0, 0, 1, 1), ip(50, beside, wan, 0, 0, 1, 1)}, nil, 1, "198.51.100.12:0"},
		"ESP without ours":     {diagnose.IKE, sent, [][]byte{left, ip(50, beside, wan, 0, 0, 1, 1)}, nil, 0, "invalid AddrPort"},
	} {
		t.Run(name, func(t *testing.T) {
			f := watching(c.part, c.lan, c.wan, c.aside...)
			if f.Stray != c.want || f.StrayFrom.String() != c.from {
				t.Errorf("%d strays of %s, want %d of %s", f.Stray, f.StrayFrom, c.want, c.from)
			}
			if held := c.part == diagnose.GRE; f.Held != held { // of GRE the request alone left
				t.Errorf("held: %v", f.Held)
			}
		})
	}
}

// detection is IKEv2's NAT detection of a server that has its own address.
func detection(own netip.Addr, sees netip.Addr, seesPort uint16) []payload {
	hash := func(kind uint16, a netip.Addr, port uint16) payload {
		h := sha1.Sum(binary.BigEndian.AppendUint16(append(bytes.Clone(spis), a.AsSlice()...), port))
		return payload{41, append([]byte{0, 0, byte(kind >> 8), byte(kind)}, h[:]...)}
	}
	return []payload{{33, make([]byte, 40)}, {40, make([]byte, 32)}, hash(16388, own, 500), hash(16389, sees, seesPort)}
}

// natD is the same in IKEv1's third and fourth message, with SHA-256.
func natD(own, sees netip.Addr) []payload {
	hash := func(a netip.Addr) payload {
		h := sha256.Sum256(binary.BigEndian.AppendUint16(append(bytes.Clone(spis), a.AsSlice()...), 500))
		return payload{20, h[:]}
	}
	return []payload{{4, make([]byte, 256)}, {10, make([]byte, 32)}, hash(sees), hash(own)}
}

// TestNATDetection reads who is behind NAT from the server's answers.
func TestNATDetection(t *testing.T) {
	private := netip.MustParseAddr("10.9.9.36")
	for name, c := range map[string]struct {
		version, exchange byte
		payloads          []payload
		server, client    bool
	}{
		"IKEv2, no NAT":                  {0x20, 34, detection(server, wan, 500), false, false},
		"IKEv2, the server behind NAT":   {0x20, 34, detection(private, wan, 500), true, false},
		"IKEv2, a second NAT here":       {0x20, 34, detection(server, beside, 500), false, true},
		"IKEv2, the second NAT's port":   {0x20, 34, detection(server, wan, 1025), false, true},
		"IKEv2, nothing said":            {0x20, 34, []payload{{33, make([]byte, 40)}}, false, false},
		"IKEv1, no NAT":                  {0x10, 2, natD(server, wan), false, false},
		"IKEv1, both":                    {0x10, 2, natD(private, beside), true, true},
		"IKEv2, encrypted: nothing read": {0x20, 35, detection(private, beside, 500), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			answer := ikeOf(spis, c.version, c.exchange, 0x20&(c.version), c.payloads...)
			f := watching(diagnose.IKE, [][]byte{udp(device, server, 500, 500, ikeOf(spis, c.version, c.exchange, 8)...)}, [][]byte{udp(server, wan, 500, 500, answer...)})
			if f.ServerNAT != c.server || f.ClientNAT != c.client {
				t.Errorf("server %v, client %v; want %v, %v", f.ServerNAT, f.ClientNAT, c.server, c.client)
			}
		})
	}
}

// TestIKEContents: who began, and with what.
func TestIKEContents(t *testing.T) {
	id := func(s string) payload { b, _ := hex.DecodeString(s); return payload{13, b} }
	answered := append(bytes.Clone(spis[:8]), 1, 1, 1, 1, 1, 1, 1, 1)
	out := func(b []byte) []byte { return udp(device, server, 500, 500, b...) }
	in := func(b []byte) []byte { return udp(server, device, 500, 500, b...) }
	for name, c := range map[string]struct {
		packet                     []byte
		windows, called, certified bool
	}{
		"Windows":                    {out(ikeOf(spis, 0x10, 2, 0, payload{1, make([]byte, 20)}, id("1e2b516905991c7d7c96fcbfb587e46100000009"))), true, false, false},
		"a newer one, calling us":    {in(ikeOf(spis, 0x10, 2, 0, id("fb1de3cdf341b7ea16b7e5be0855f120"))), true, true, false},
		"a Windows that answers":     {in(ikeOf(answered, 0x10, 2, 0, id("1e2b516905991c7d7c96fcbfb587e46100000009"))), false, false, false},
		"something else":             {out(ikeOf(spis, 0x10, 2, 0, id("4a131c81070358455c5728f20e95452f"))), false, false, false},
		"a request for certificates": {in(ikeOf(answered, 0x20, 34, 0x20, payload{33, nil}, payload{38, []byte{4}})), false, false, true},
		"a certificate":              {in(ikeOf(answered, 0x20, 35, 0x20, payload{46, make([]byte, 900)})), false, false, true},
		"one in fragments":           {in(ikeOf(answered, 0x20, 35, 0x20, payload{53, append([]byte{0, 1, 0, 3}, make([]byte, 400)...)})), false, false, true},
		"a key":                      {in(ikeOf(answered, 0x20, 35, 0x20, payload{46, make([]byte, 200)})), false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := watching(diagnose.IKE, [][]byte{c.packet}, nil)
			if f.Windows != c.windows || f.Called != c.called || f.Certificates != c.certified {
				t.Errorf("windows %v, called %v, certificates %v", f.Windows, f.Called, f.Certificates)
			}
		})
	}
}
