package diagnose_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/culvert-fw/culvert/firmware/diagnose"
)

var (
	device = netip.MustParseAddr("192.168.1.10")
	other  = netip.MustParseAddr("192.168.1.20")
	server = netip.MustParseAddr("198.51.100.10")
	router = netip.MustParseAddr("192.168.1.1")
	wan    = netip.MustParseAddr("203.0.113.50")
)

func ip(protocol byte, src, dst netip.Addr, payload ...byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[9] = 0x45, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, payload...)
}

func ports(src, dst uint16, more ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst), more...)
}

func udp(src, dst netip.Addr, sport, dport uint16, payload ...byte) []byte {
	return ip(17, src, dst, append(ports(sport, dport, 0, 0, 0, 0), payload...)...)
}

func tcp(src, dst netip.Addr, sport, dport uint16, flags byte) []byte {
	return ip(6, src, dst, ports(sport, dport, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0)...)
}

// gre is PPTP's GRE with a sequence number, RFC 2637 4.1.
func gre(src, dst netip.Addr, ppp ...byte) []byte {
	return ip(47, src, dst, append([]byte{0x30, 1, 0x88, 0x0b, 0, byte(len(ppp)), 0, 7, 0, 0, 0, 1}, ppp...)...)
}

func ikeHeader(version, exchange, flags byte) []byte {
	b := make([]byte, 28)
	b[15], b[17], b[18], b[19] = 1, version, exchange, flags
	return b
}

// TestWatch reads packets as they cross the router, one a second.
func TestWatch(t *testing.T) {
	out := func(n uint64) diagnose.Count { return diagnose.Count{Packets: n} }
	marked := func(b []byte) []byte { return append(make([]byte, 4), b...) }
	type side struct {
		wan bool
		b   []byte
	}
	lan := func(b []byte) side { return side{b: b} }
	for name, c := range map[string]struct {
		packets []side
		want    []diagnose.Flow
	}{
		"syn and reset": {[]side{lan(tcp(device, server, 4000, 1723, 2)), lan(tcp(server, device, 1723, 4000, 4|16))},
			[]diagnose.Flow{{Part: diagnose.Control, Ports: "4000>1723", Out: out(1), In: out(1), Sent: "SYN", Reset: true}}},
		"a reset after it was open": {[]side{lan(tcp(device, server, 4000, 1723, 2)), lan(tcp(server, device, 1723, 4000, 2|16)), lan(tcp(server, device, 1723, 4000, 4))},
			[]diagnose.Flow{{Part: diagnose.Control, Ports: "4000>1723", Out: out(1), In: out(2), Sent: "SYN", Closed: true}}},
		"ppp negotiates": {[]side{lan(gre(device, server, 0xff, 3, 0xc0, 0x21, 1)), lan(gre(server, device, 0xff, 3, 0xc0, 0x21, 2))},
			[]diagnose.Flow{{Part: diagnose.GRE, Out: out(1), In: out(1)}}},
		"ppp is up and idle": {[]side{lan(gre(device, server, 0x80, 0x21, 1)), lan(gre(server, device, 0x80, 0x21, 2)), lan(gre(server, device, 0x80, 0x21, 1)), lan(gre(device, server, 0x80, 0x21, 2))},
			[]diagnose.Flow{{Part: diagnose.GRE, Out: out(2), In: out(2), DataIn: 1, DataOut: 1}}},
		"ppp's login fails": {[]side{lan(gre(device, server, 0xc2, 0x23, 2)), lan(gre(server, device, 0xc2, 0x23, 4))},
			[]diagnose.Flow{{Part: diagnose.GRE, Out: out(1), In: out(1), LoginRefused: true}}},
		"mppe, with a compressed protocol field": {[]side{lan(gre(device, server, 0xfd, 0x90)), lan(gre(server, device, 0, 0xfd, 0x90))},
			[]diagnose.Flow{{Part: diagnose.GRE, Out: out(1), In: out(1), DataIn: 1, DataOut: 1, Sizes: diagnose.Sizes{SmallAnswered: 1, Passed: 34}}}},
		"l2tp, control and data": {[]side{
			lan(udp(device, server, 1701, 1701, 0xc8, 2, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0)),
			lan(udp(server, device, 1701, 1701, 0x40, 2, 0, 12, 0, 1, 0, 1, 0x00, 0x21, 0x45, 0)),
			lan(udp(server, device, 1701, 1701, 0x4a, 2, 0, 20, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0xff, 3, 0xc2, 0x23, 4))},
			[]diagnose.Flow{{Part: diagnose.L2TP, Ports: "1701>1701", Out: out(1), In: out(2), DataIn: 1, LoginRefused: true}}},
		"ike, version 2, then ESP in UDP": {[]side{
			lan(udp(device, server, 500, 500, ikeHeader(0x20, 34, 8)...)), lan(udp(server, device, 500, 500, ikeHeader(0x20, 34, 0x20)...)),
			lan(udp(device, server, 4500, 4500, marked(ikeHeader(0x20, 35, 8))...)), lan(udp(server, device, 4500, 4500, marked(ikeHeader(0x20, 35, 0x20))...)),
			lan(udp(device, server, 4500, 4500, 0xff)), // keepalive
			lan(udp(device, server, 4500, 4500, 1, 2, 3, 4, 0, 0, 0, 1))},
			[]diagnose.Flow{{Part: diagnose.IKE, Ports: "500>500", Out: out(1), In: out(1), Sent: "IKE_SA_INIT"},
				{Part: diagnose.NATT, Ports: "4500>4500", Out: out(2), In: out(1), DataOut: 1, Authenticated: true, Sent: "IKE_AUTH"}}},
		"ike, version 1": {[]side{lan(udp(device, server, 500, 500, ikeHeader(0x10, 2, 0)...)), lan(udp(server, device, 500, 500, ikeHeader(0x10, 32, 1)...))},
			[]diagnose.Flow{{Part: diagnose.IKE, Ports: "500>500", Out: out(1), In: out(1), IKEv1: true, Authenticated: true, Sent: "Main Mode"}}},
		"esp that ends at the WAN": {[]side{lan(ip(50, device, server, 0, 0, 1, 1)), {true, ip(50, server, wan, 0, 0, 2, 2)}},
			[]diagnose.Flow{{Part: diagnose.ESP, Out: out(1), Arrived: 1}}},
		"esp for another device": {[]side{lan(ip(50, device, server, 0, 0, 1, 1)), {true, ip(50, server, wan, 0, 0, 2, 2)}, lan(ip(50, server, other, 0, 0, 2, 2))},
			[]diagnose.Flow{{Part: diagnose.ESP, Out: out(1)}}},
		"unreachable": {[]side{lan(udp(device, server, 1701, 1701)), lan(ip(1, server, device, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, udp(device, server, 1701, 1701)...)...))},
			[]diagnose.Flow{{Part: diagnose.L2TP, Ports: "1701>1701", Out: out(1), Unreachable: "198.51.100.10 says: port unreachable"}}},
		"refused by the router, and path MTU": {[]side{lan(udp(device, server, 1701, 1701)),
			lan(ip(1, router, device, append([]byte{3, 13, 0, 0, 0, 0, 0, 0}, udp(device, server, 1701, 1701)...)...)),
			lan(ip(1, server, device, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, udp(device, server, 1701, 1701)...)...))},
			[]diagnose.Flow{{Part: diagnose.L2TP, Ports: "1701>1701", Out: out(1), Sizes: diagnose.Sizes{MTU: 1280, MTUFrom: server}}}},
		"others": {[]side{lan(udp(other, server, 500, 500)), lan(udp(device, other, 500, 500)), lan(udp(device, server, 500, 53)), {true, ip(50, other, wan)}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan}
			var at time.Duration
			for _, p := range c.packets {
				if at += time.Second; p.wan {
					w.WAN(p.b, at)
				} else {
					w.LAN(p.b, at)
				}
			}
			got := w.Flows(at)
			for i := range got {
				if !got[i].Watched || got[i].Age < got[i].Last || got[i].Out.Bytes < 20*got[i].Out.Packets {
					t.Errorf("%+v", got[i])
				}
				got[i].Held, got[i].Sizes.Since = false, 0
				got[i].Watched, got[i].Age, got[i].Last, got[i].Out.Bytes, got[i].In.Bytes = false, 0, 0, 0, 0
			}
			if d := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// FuzzWatch: whatever crosses the router, no panic.
func FuzzWatch(f *testing.F) {
	for _, b := range [][]byte{tcp(device, server, 4000, 1723, 2), gre(device, server, 0xff, 3, 0xc0, 0x21, 1), udp(server, device, 1701, 1701, 0x4a, 2, 0, 20, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0xff, 3),
		udp(device, server, 4500, 4500, append(make([]byte, 4), ikeHeader(0x20, 35, 8)...)...),
		udp(server, wan, 500, 500, ikeOf(spis, 0x20, 34, 0x20, detection(server, wan, 500)...)...), udp(server, device, 500, 500, ikeOf(spis, 0x10, 2, 0, natD(server, wan)...)...), ip(50, device, server, 0, 0, 1, 1),
		ip(1, server, device, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, udp(device, server, 1701, 1701)...)...)} {
		for i := range b {
			f.Add(b[:i:i])
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan}
		w.LAN(b, 1)
		w.WAN(b, 2)
		diagnose.Judge(diagnose.Seen{Device: device, Server: server, WAN: wan, Flows: w.Flows(3), Watched: 3})
	})
}
