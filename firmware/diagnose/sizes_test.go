package diagnose_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"net/netip"

	"github.com/culvert-fw/culvert/firmware/diagnose"
)

// TestSizes: which packets of a tunnel are taken for lost. Each is a time in
// milliseconds and a size, of what the device sends; 0 is an answer.
func TestSizes(t *testing.T) {
	type step struct{ at, bytes int }
	for name, c := range map[string]struct {
		steps []step
		want  diagnose.Sizes
	}{
		"all answered": {[]step{{0, 100}, {20, 0}, {1000, 1400}, {1030, 0}}, diagnose.Sizes{Since: 9 * time.Second, Big: 1, BigAnswered: 1, SmallAnswered: 1, Passed: 1400}},
		"large ones lost": {[]step{{0, 100}, {20, 0}, {1000, 1400}, {2000, 1300}, {4000, 1400}},
			diagnose.Sizes{Since: 9 * time.Second, Big: 3, BigLost: 3, SmallAnswered: 1, Passed: 100, Lost: 1300, Losing: 8 * time.Second}},
		"too late for an answer":            {[]step{{0, 1400}, {1500, 0}}, diagnose.Sizes{Since: 9 * time.Second, Big: 1, BigLost: 1, Lost: 1400, Losing: 9 * time.Second}},
		"a burst, of which one is answered": {[]step{{0, 1400}, {10, 1400}, {20, 1400}, {50, 0}}, diagnose.Sizes{Since: 9 * time.Second, Big: 1, BigAnswered: 1, Passed: 1400}},
		"small ones lost":                   {[]step{{0, 300}, {1000, 300}, {2000, 300}}, diagnose.Sizes{Since: 9 * time.Second}},
		"the answer may still come":         {[]step{{8500, 1400}}, diagnose.Sizes{Since: 500 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan}
			for _, s := range c.steps {
				b := ip(50, server, device, make([]byte, 80)...)
				if s.bytes > 0 {
					b = ip(50, device, server, make([]byte, s.bytes-20)...)
				}
				w.LAN(b, time.Duration(s.at)*time.Millisecond)
			}
			got := w.Flows(9 * time.Second)[0].Sizes
			if d := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestOversize: a device has a second to do what ICMP tells it, and what may be
// fragmented need not be smaller.
func TestOversize(t *testing.T) {
	big := ip(50, device, server, make([]byte, 1380)...)
	whole := append([]byte{}, big...)
	whole[6] |= 0x40
	narrow := ip(1, beside, device, append([]byte{3, 4, 0, 0, 0, 0, 5, 20}, whole[:60]...)...) // 1300
	w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan}
	w.LAN(whole, 0)
	w.LAN(narrow, 10*time.Millisecond)
	w.LAN(whole, 500*time.Millisecond)
	w.LAN(big, 2*time.Second)
	w.LAN(whole, 3*time.Second)
	w.LAN(ip(50, device, server, make([]byte, 1000)...), 4*time.Second)
	z := w.Flows(5 * time.Second)[0].Sizes
	if z.MTU != 1300 || z.MTUFrom != beside || z.Oversize != 1 {
		t.Errorf("%+v", z)
	}
}

// TestShapes: VPNs of any port, and what is none.
func TestShapes(t *testing.T) {
	wireguard := append([]byte{1, 0, 0, 0}, make([]byte, 144)...)
	openvpn := append([]byte{7 << 3, 1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 33)...)
	framed := append([]byte{0, byte(len(openvpn))}, openvpn...)
	segment := func(src, dst netip.Addr, sport, dport uint16, b []byte) []byte {
		return ip(6, src, dst, ports(sport, dport, append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0x50, 24, 0, 0, 0, 0, 0, 0}, b...)...)...)
	}
	for name, c := range map[string]struct {
		packets [][]byte
		part    diagnose.Part
		sent    string
		in, out uint64
	}{
		"WireGuard at DNS's port": {[][]byte{udp(device, server, 4000, 53, wireguard...), udp(server, device, 53, 4000, append([]byte{2, 0, 0, 0}, make([]byte, 88)...)...),
			udp(device, server, 4000, 53, 4, 0, 0, 0, 1), udp(server, device, 53, 4000, 4, 0, 0, 0, 1)}, diagnose.WireGuard, "handshake initiation", 1, 1},
		"WireGuard that is up":    {[][]byte{udp(device, server, 4000, 7000, append([]byte{4}, make([]byte, 127)...)...), udp(server, device, 7000, 4000, append([]byte{4}, make([]byte, 31)...)...)}, diagnose.WireGuard, "", 1, 1},
		"OpenVPN at another port": {[][]byte{udp(device, server, 4000, 5000, openvpn...), udp(server, device, 5000, 4000, append([]byte{8 << 3}, openvpn[1:]...)...)}, diagnose.OpenVPN, "P_CONTROL_HARD_RESET_CLIENT_V2", 0, 0},
		"OpenVPN in TCP 443":      {[][]byte{tcp(device, server, 4000, 443, 2), segment(device, server, 4000, 443, framed), segment(server, device, 443, 4000, []byte{0, 3, 9 << 3, 1, 1})}, diagnose.OpenVPN, "P_CONTROL_HARD_RESET_CLIENT_V2", 1, 0},
		"TLS":                     {[][]byte{tcp(device, server, 4000, 443, 2), segment(device, server, 4000, 443, []byte{22, 3, 1, 0, 9, 1}), segment(server, device, 443, 4000, []byte{23, 3, 3, 0, 9})}, diagnose.SSTP, "ClientHello", 1, 0},
		"DNS":                     {[][]byte{udp(device, server, 4000, 53, make([]byte, 40)...)}, "", "", 0, 0},
		"L2TP answered from another port": {[][]byte{udp(device, server, 4000, 1701, 0xc8, 2, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 8, 0, 0, 0, 0, 0, 1), udp(server, device, 6000, 4000, 0x40, 2, 0, 12, 0, 1, 0, 1, 0x00, 0x21, 0x45, 0)},
			diagnose.L2TP, "SCCRQ", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan}
			for i, b := range c.packets {
				w.LAN(b, time.Duration(i)*time.Second)
			}
			fs := w.Flows(9 * time.Second)
			switch {
			case c.part == "":
				if len(fs) != 0 {
					t.Errorf("%+v", fs)
				}
			case len(fs) != 1 || fs[0].Part != c.part || fs[0].Sent != c.sent || fs[0].DataIn != c.in || fs[0].DataOut != c.out:
				t.Errorf("%+v", fs)
			}
		})
	}
}

// TestAlert: TLS that ends in the clear.
func TestAlert(t *testing.T) {
	alert := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0x50, 24, 0, 0, 0, 0, 0, 0, 21, 3, 3, 0, 2, 2, 48}
	for want, b := range map[string][]byte{
		"the device said unknown_ca": ip(6, device, server, ports(4000, 443, alert...)...),
		"the server said unknown_ca": ip(6, server, device, ports(443, 4000, alert...)...),
	} {
		w := diagnose.Watch{Device: device, Server: server, Router: router, Outside: wan}
		w.LAN(b, 0)
		if f := w.Flows(time.Second)[0]; f.Alert != want {
			t.Errorf("%+v", f)
		}
	}
}
