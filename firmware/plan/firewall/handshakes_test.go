package firewall_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// packet is what a device sends; refused names the protocol whose switch is
// about it.
type packet struct {
	name, refused string
	b             []byte
}

// noise is what encryption and random numbers look like, the same every time.
func noise(n int) []byte {
	r, b := rand.New(rand.NewPCG(1, uint64(n))), make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32() | 1) // no zeros, which shapes are made of
	}
	return b
}

// cat joins bytes, numbers of any size and texts, most significant byte first.
func cat(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case string:
			b = append(b, p...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, p)
		}
	}
	return b
}

const now = uint32(0x6740aabb) // as OpenVPN counts the time

// handshakes are those of WireGuard and OpenVPN, and packets of data.
func handshakes() []packet {
	list := []packet{
		{"WireGuard initiation", "wireguard", cat(1, 0, 0, 0, noise(144))},
		{"WireGuard response", "wireguard", cat(2, 0, 0, 0, noise(88))},
		{"WireGuard cookie reply", "wireguard", cat(3, 0, 0, 0, noise(60))},
		{"WireGuard data", "wireguard", cat(4, 0, 0, 0, noise(108))},
		{"WireGuard keepalive", "wireguard", cat(4, 0, 0, 0, noise(28))},
		{"OpenVPN data", "openvpn", cat(0x48, 0, 0, 5, noise(100))},
		{"OpenVPN data with the third key", "openvpn", cat(0x4a, 0, 1, 5, noise(60))},
		{"OpenVPN data between two peers", "openvpn", cat(0x4f, "vpn", noise(60))},
		{"OpenVPN 2.5 with tls-crypt-v2", "openvpn", cat(0x50, noise(8), uint32(1), now, noise(37), noise(299))},
		{"OpenVPN 2.6 with tls-crypt-v2", "openvpn", cat(0x50, noise(8), uint32(0x0f000001), now, noise(37), noise(700))},
	}
	for opcode, what := range map[int]string{0x38: "OpenVPN", 0x1a: "OpenVPN's third key,"} {
		list = append(list, packet{what + " alone", "openvpn", cat(opcode, noise(8), 0, uint32(0))},
			packet{what + " with tls-crypt", "openvpn", cat(opcode, noise(8), uint32(3), now, noise(32), noise(5))})
		for digest, n := range map[string]int{"MD5": 16, "SHA1": 20, "SHA224": 28, "SHA256": 32, "SHA384": 48, "SHA512": 64} {
			list = append(list, packet{what + " with tls-auth " + digest, "openvpn", cat(opcode, noise(8), noise(n), uint32(400), now, 0, uint32(0))})
		}
	}
	return list
}

// others are what else people run, and tunnels that can't be told.
func others() []packet {
	dns := func(id, flags uint16) []byte {
		return cat(id, flags, uint16(1), uint16(0), uint16(0), uint16(1), "\x03www\x07example\x03com\x00", uint16(1), uint16(1), 0, uint16(41), uint16(1232), uint32(0), uint16(0))
	}
	list := []packet{
		{"DNS", "", dns(0x3800, 0x0100)}, {"DNS of a resolver", "", dns(0x0100, 0)}, {"DNS, ID 0x0400", "", dns(0x0400, 0)}, {"DNS, ID 0x4800", "", dns(0x4801, 0x0100)},
		{"QUIC Initial", "", cat(0xc3, uint32(1), 8, noise(8), 0, 0, 0x44, 0x9e, noise(1182))},
		{"QUIC 0-RTT", "", cat(0xd1, uint32(1), 8, noise(8), 0, 0x44, 0x9e, noise(600))},
		{"QUIC", "", cat(0x48, noise(8), noise(40))}, {"QUIC, 54 bytes", "", cat(0x58, noise(53))}, {"QUIC, 0x50", "", cat(0x50, noise(500))},
		{"STUN binding", "", cat(uint16(1), uint16(0), uint32(0x2112a442), noise(12))},
		{"STUN of WebRTC", "", cat(uint16(1), uint16(128), uint32(0x2112a442), noise(12+128))},
		{"TURN data", "", cat(uint16(0x4000), uint16(172), 0x80, 111, uint16(1), uint32(960), noise(164))},
		{"TURN data, channel 0x4801", "", cat(uint16(0x4801), uint16(172), 0x80, 111, uint16(1), uint32(960), noise(164))},
		{"DTLS ClientHello", "", cat(22, uint16(0xfefd), uint16(0), []byte{0, 0, 0, 0, 0, 0}, uint16(135), 1, noise(134))},
		{"DTLS heartbeat", "", cat(24, uint16(0xfefd), uint16(1), []byte{0, 0, 0, 0, 0, 0}, uint16(40), noise(40))},
		{"DTLS with connection ID", "", cat(25, uint16(0xfefd), uint16(1), []byte{0, 0, 0, 0, 0, 0}, noise(8), uint16(45), noise(45))},
		{"RTP", "", cat(0x80, 0, uint16(7), uint32(160), noise(164))}, {"RTCP", "", cat(0x80, 200, uint16(6), noise(24))},
		{"SRTP", "", cat(0x90, 96, uint16(7), uint32(960), noise(132))},
		{"NTP 4", "", cat(0x23, 0, 6, 0xec, make([]byte, 36), noise(8))}, {"NTP 3", "", cat(0x1b, make([]byte, 47))}, {"NTP with MAC", "", cat(0x1b, make([]byte, 47), uint32(1), noise(16))},
		{"SIP OPTIONS", "", cat("OPTIONS sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10\r\n\r\n")},
		{"SIP INVITE", "", cat("INVITE sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10\r\n\r\n")},
		{"SNMP", "", cat(0x30, 0x29, 2, 1, 1, 4, 6, "public", noise(30))},
		{"uTP SYN", "", cat(0x41, 0, uint16(1), noise(16))}, {"uTP data", "", cat(1, 0, uint16(0x2b1c), noise(144))}, {"uTP ack", "", cat(0x21, 0, uint16(1), noise(16))},
		{"BitTorrent DHT", "", cat("d1:ad2:id20:", noise(20), "e1:q4:ping1:t2:aa1:y1:qe")},
		{"RakNet ping", "", cat(1, uint64(0x0000000000012345), []byte{0, 0xff, 0xff, 0, 0xfe, 0xfe, 0xfe, 0xfe, 0xfd, 0xfd, 0xfd, 0xfd, 0x12, 0x34, 0x56, 0x78}, noise(8))},
		{"RakNet ping of a new clock", "", cat(1, uint64(0x20), noise(24))},
		{"Source query", "", cat(uint32(0xffffffff), "TSource Engine Query\x00")},
		{"CoAP", "", cat(0x48, 1, uint16(7), noise(8), 0xb4, "temp", noise(20))},
		{"NAT-T ESP", "", cat(uint32(0x4800c0de), uint32(1), noise(120))}, {"NAT-T keepalive", "", cat(0xff)},
		{"NAT-T IKE", "", cat(uint32(0), noise(8), uint64(0), 33, 0x20, 34, 8, uint32(0), uint32(300), noise(268))},
		{"L2TP", "", cat(0xc8, 2, uint16(100), uint32(0), uint32(0), noise(88))},
		{"GTP", "", cat(0x30, 0xff, uint16(100), noise(104))}, {"VXLAN", "", cat(8, 0, 0, 0, 0, 0, 7, 0, noise(60))},
		{"syslog", "", cat("<38>Nov 21 17:00:00 host app: text")},
		{"a short text that begins with 8", "", cat("8 times a text")},
		{"a text that begins with 8", "", cat("8" + strings.Repeat("text ", 11)[:53])},
		{"AmneziaWG", "", cat(0x5c, 0x11, 0x02, 0x33, noise(160))}, {"WireGuard of WARP", "", cat(1, 0x11, 0x22, 0x33, noise(144))},
		{"OpenVPN behind XOR", "", noise(54)},
	}
	for seq := range 6 { // as engines of games count packets
		for _, n := range []int{26, 60, 144} {
			b := binary.LittleEndian.AppendUint32(nil, uint32(seq))
			list = append(list, packet{"a game's packet " + string(rune('0'+seq)), "", cat(b, noise(n+1))})
		}
	}
	return list
}

// mirror sends every packet back.
func (n *network) mirror(ns *nettest.NS, addr string) {
	n.t.Helper()
	n.serveUDP(ns, addr, func(_ string, b []byte) []byte { return b })
}

// flow is a UDP socket of a device.
func (n *network) flow(ns *nettest.NS, addr string) net.Conn {
	n.t.Helper()
	var c net.Conn
	var err error
	ns.Do(func() { c, err = net.Dial("udp4", addr) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

// mirrored sends a packet and tells what became of it: "", "refused" or "lost".
func mirrored(c net.Conn, b []byte) string {
	c.SetDeadline(time.Now().Add(hang))
	if _, err := c.Write(b); err != nil {
		return err.Error()
	}
	back := make([]byte, 2048)
	switch k, err := c.Read(back); {
	case errors.Is(err, unix.EHOSTUNREACH):
		return "refused"
	case err != nil:
		return "lost: " + err.Error()
	case !bytes.Equal(back[:k], b):
		return "changed"
	}
	return ""
}

// TestHandshakes: what is off is refused wherever it goes, as the first packet
// of a flow and, but for data, in the middle of one; and nothing else is.
func TestHandshakes(t *testing.T) {
	n := newNetwork(t)
	const to, natt = server + ":40000", server + ":4500"
	n.mirror(n.wan, to)
	n.mirror(n.wan, natt)
	all := append(handshakes(), others()...)
	for _, c := range []struct{ wireguard, openvpn string }{{"on", "on"}, {"off", "on"}, {"on", "off"}, {"off", "off"}} {
		n.set("set passthrough wireguard " + c.wireguard + "\nset passthrough openvpn " + c.openvpn)
		off := map[string]bool{"wireguard": c.wireguard == "off", "openvpn": c.openvpn == "off"}
		for _, p := range all {
			want := ""
			if off[p.refused] {
				want = "refused"
			}
			to := to
			if strings.HasPrefix(p.name, "NAT-T") {
				to = natt
			}
			f := n.flow(n.pc, to)
			if got := mirrored(f, p.b); got != want {
				t.Errorf("%+v: %s, %d bytes: %q", c, p.name, len(p.b), got)
			}
			f.Close()
			if strings.Contains(p.name, " data") || strings.Contains(p.name, "keepalive") {
				want = "" // the switch ended all flows, so no tunnel has one
			}
			f = n.flow(n.pc, to)
			if got := mirrored(f, []byte("hello")); got != "" {
				t.Fatalf("%+v: the first packet: %q", c, got)
			}
			if got := mirrored(f, p.b); got != want {
				t.Errorf("%+v: %s, %d bytes, in a flow: %q", c, p.name, len(p.b), got)
			}
			f.Close()
		}
	}
}

// TestHandshakesEndFlows: a switch ends the tunnels that are up, at any port,
// and other flows of the refused devices go on by themselves.
func TestHandshakesEndFlows(t *testing.T) {
	n := newNetwork(t)
	const to, natt = server + ":40000", server + ":4500"
	n.mirror(n.wan, to)
	n.mirror(n.wan, natt)
	wireguard, openvpn := cat(4, 0, 0, 0, noise(60)), cat(0x48, 0, 0, 5, noise(100))
	quic := cat(0x51, noise(60))
	type end struct {
		conn net.Conn
		b    []byte
	}
	var flows [2]map[string]end
	for i, ns := range []*nettest.NS{n.pc, n.nas} {
		flows[i] = map[string]end{"wireguard": {n.flow(ns, to), wireguard}, "openvpn": {n.flow(ns, to), openvpn},
			"quic": {n.flow(ns, to), quic}, "nat-t": {n.flow(ns, natt), quic}}
		for name, f := range flows[i] {
			if got := mirrored(f.conn, f.b); got != "" {
				t.Fatalf("%s while it is on: %q", name, got)
			}
		}
	}
	check := func(i int, name, want string) {
		t.Helper()
		if got := mirrored(flows[i][name].conn, flows[i][name].b); got != want {
			t.Errorf("device %d, %s: %q, want %q", i, name, got, want)
		}
	}
	ports := func() map[uint16]bool { // of entries
		m := map[uint16]bool{}
		for _, e := range n.connections() {
			m[e.Orig.SrcPort] = true
		}
		return m
	}
	has := func(i int, name string) bool {
		return ports()[uint16(flows[i][name].conn.LocalAddr().(*net.UDPAddr).Port)]
	}
	n.set("set passthrough wireguard devices " + nasIP)
	for name, want := range map[string]bool{"wireguard": false, "quic": false, "nat-t": true} {
		if has(0, name) != want {
			t.Errorf("the flow of %s of a device that may not is left: %v", name, !want)
		}
		if !has(1, name) {
			t.Errorf("the flow of %s of a device that may has ended", name)
		}
	}
	check(0, "wireguard", "refused")
	check(0, "quic", "")
	check(0, "openvpn", "")
	check(1, "wireguard", "")
	if got := mirrored(n.flow(n.nas, to), handshakes()[0].b); got != "" {
		t.Errorf("a handshake of a device that may: %q", got)
	}
	n.set("set passthrough openvpn off\nset passthrough wireguard devices any")
	for i := range flows {
		check(i, "wireguard", "")
		check(i, "openvpn", "refused")
		check(i, "quic", "")
		check(i, "nat-t", "")
	}

	// What was refused before is no tunnel, whatever is refused now.
	n.set("set passthrough openvpn on\nset passthrough wireguard servers " + stranger)
	check(1, "quic", "")
	for _, more := range []string{"set passthrough wireguard servers 192.0.2.1", "set passthrough wireguard off"} {
		n.set(more)
		if !has(1, "quic") {
			t.Errorf("%s ends a flow to a server that was not among those before", more)
		}
	}
}

// TestOpenVPNOverTCP: by its port, and by the first segment at any other.
func TestOpenVPNOverTCP(t *testing.T) {
	n := newNetwork(t)
	n.serve(n.wan, server+":443")
	n.serve(n.wan, server+":1194")
	hello := cat(22, uint16(0x0301), uint16(200), 1, noise(199)) // TLS
	// say sends the first segment, and then more.
	say := func(ns *nettest.NS, b []byte) error {
		t.Helper()
		c, err := n.dial(ns, server+":443", hang)
		if err != nil {
			t.Fatal(err)
		}
		c.Read(make([]byte, 16))
		for range 2 {
			if _, err = c.Write(b); err == nil {
				_, err = c.Read(make([]byte, 2048))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, state := range []string{"on", "off", "on\nset passthrough openvpn devices " + nasIP} {
		n.set("set passthrough openvpn devices any\nset passthrough openvpn " + state)
		for _, p := range handshakes() {
			if p.refused != "openvpn" || strings.Contains(p.name, "data") {
				continue
			}
			err := say(n.pc, cat(uint16(len(p.b)), p.b))
			if refused := errors.Is(err, unix.ECONNRESET); refused != (state != "on") || !refused && err != nil {
				t.Errorf("openvpn %s: %s: %v", state, p.name, err)
			}
		}
		for _, b := range [][]byte{hello, cat(uint16(14), noise(14)), cat("GET / HTTP/1.1\r\n\r\n"), cat(0, 54, 0x38, noise(53))} {
			if err := say(n.pc, b); err != nil {
				t.Errorf("openvpn %s: %.8x...: %v", state, b, err)
			}
		}
		_, err := n.dial(n.pc, server+":1194", hang)
		if refused := errors.Is(err, unix.EHOSTUNREACH); refused != (state != "on") {
			t.Errorf("openvpn %s: port 1194: %v", state, err)
		}
	}
	n.reach(n.nas, server+":1194")
	if err := say(n.nas, cat(uint16(14), 0x38, noise(8), 0, uint32(0))); err != nil {
		t.Errorf("a device that may: %v", err)
	}
}
