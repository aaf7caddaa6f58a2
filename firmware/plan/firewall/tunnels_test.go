package firewall_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/nflog"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

const (
	server   = "198.51.100.1"
	stranger = "198.51.100.2"
	wanIP    = "203.0.113.2"
	pcIP     = "192.168.1.10"
	nasIP    = "192.168.1.20"
)

// end is a host's raw ESP socket and its IKE port.
type end struct {
	t        *testing.T
	name     string
	esp, ike net.PacketConn
}

func newEnd(t *testing.T, ns *nettest.NS, name, addr string) *end {
	t.Helper()
	e := &end{t: t, name: name}
	var err, err2 error
	ns.Do(func() {
		e.esp, err = net.ListenPacket("ip4:50", addr)
		e.ike, err2 = net.ListenPacket("udp4", addr+":500")
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	t.Cleanup(func() { e.esp.Close(); e.ike.Close() })
	return e
}

// packet is ESP with an SPI, or IKE with an initiator's SPI.
func espPacket(spi uint32, n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, spi), bytes.Repeat([]byte{0xee}, n)...)
}

func ikePacket(cookie uint64, payload, exchange byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, cookie)
	b = append(b, make([]byte, 20)...)
	b[16], b[17], b[18] = payload, 0x20, exchange
	return b
}

func (e *end) send(c net.PacketConn, to string, b []byte) {
	e.t.Helper()
	addr := netip.MustParseAddr(to)
	var dst net.Addr = &net.IPAddr{IP: addr.AsSlice()}
	if c == e.ike {
		dst = &net.UDPAddr{IP: addr.AsSlice(), Port: 500}
	}
	if _, err := c.WriteTo(b, dst); err != nil {
		e.t.Fatalf("%s: %v", e.name, err)
	}
}

// gets wants just this packet from there.
func (e *end) gets(c net.PacketConn, from string, want []byte) {
	e.t.Helper()
	c.SetReadDeadline(time.Now().Add(hang))
	b := make([]byte, 65536)
	n, addr, err := c.ReadFrom(b)
	if err != nil {
		e.t.Fatalf("%s got nothing: %v", e.name, err)
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		host = addr.String()
	}
	if c == e.ike && port != "500" {
		e.t.Errorf("%s got IKE from port %s of %s, want 500", e.name, port, host)
	}
	if !bytes.Equal(b[:n], want) || host != from {
		e.t.Fatalf("%s got %d bytes from %s (%x), want %d from %s (%x)", e.name, n, host, b[:min(n, 40)], len(want), from, want[:min(len(want), 40)])
	}
}

func (e *end) nothing(c net.PacketConn) {
	e.t.Helper()
	c.SetReadDeadline(time.Now().Add(soon))
	b := make([]byte, 2048)
	if n, addr, err := c.ReadFrom(b); err == nil {
		e.t.Fatalf("%s got %x from %v", e.name, b[:n], addr)
	}
}

// share is what netd does when a second device comes.
func (n *network) share(devices ...string) {
	n.t.Helper()
	in := n.applyShared(devices...)
	a := in.Shared[0]
	var err error
	n.rtr.Do(func() {
		err = nft.New(nft.Options{}).Learn(passthrough.LearnedSet(passthrough.Assocs),
			ruleset.Element{Key: ruleset.Cat(ruleset.Addr(a.Server), ruleset.Addr(a.Devices[len(a.Devices)-1]))})
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// applyShared applies the settings with these devices of the server.
func (n *network) applyShared(devices ...string) firewall.Input {
	n.t.Helper()
	in := input(n.t, n.s, "")
	in.Facts = n.facts
	a := facts.Association{Server: netip.MustParseAddr(server)}
	for _, d := range devices {
		a.Devices = append(a.Devices, netip.MustParseAddr(d))
	}
	in.Shared = []facts.Association{a}
	n.l.apply(n.t, in)
	return in
}

func (n *network) learned(set string) []nft.Learned {
	n.t.Helper()
	var list []nft.Learned
	var err error
	n.rtr.Do(func() { list, err = nft.New(nft.Options{}).Learned(passthrough.LearnedSet(set)) })
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// seconds listens for what the kernel tells about second devices.
func (n *network) seconds() <-chan nflog.Packet {
	n.t.Helper()
	var l *nflog.Listener
	var err error
	n.rtr.Do(func() { l, err = nflog.Listen(passthrough.LogGroup) })
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	out, done := make(chan nflog.Packet, 10), make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, func(p nflog.Packet) { out <- p })
	}()
	n.t.Cleanup(func() { stop(); <-done })
	return out
}

// TestNativeIPsec: two devices of one server, neither told from the other by a
// port.
func TestNativeIPsec(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	pc, nas, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP), newEnd(t, n.wan, "server", server)
	other := newEnd(t, n.wan, "stranger", stranger)
	seconds := n.seconds()

	// Alone: all of the server's is the device's, without a word from netd.
	pc.send(pc.ike, server, ikePacket(0x1111, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x1111, 33, 34))
	srv.send(srv.ike, wanIP, ikePacket(0x1111, 33, 34))
	pc.gets(pc.ike, server, ikePacket(0x1111, 33, 34))
	srv.send(srv.esp, wanIP, espPacket(0xb1, 100)) // the server speaks first
	pc.gets(pc.esp, server, espPacket(0xb1, 100))
	pc.send(pc.esp, server, espPacket(0xa1, 4000)) // in fragments
	srv.gets(srv.esp, wanIP, espPacket(0xa1, 4000))
	nas.nothing(nas.esp)

	// A second one waits until netd knows it.
	nas.send(nas.ike, server, ikePacket(0x2222, 33, 34))
	select {
	case p := <-seconds:
		if got := netip.AddrFrom4([4]byte(p.Data[12:16])); got.String() != nasIP || p.Prefix != "second" {
			t.Fatalf("told of %v (%q), want %s", got, p.Prefix, nasIP)
		}
	case <-time.After(hang):
		t.Fatal("nobody was told of the second device")
	}
	srv.nothing(srv.ike)
	n.share(pcIP, nasIP)
	nas.send(nas.ike, server, ikePacket(0x2222, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x2222, 33, 34))

	// IKE goes by the initiator's SPI.
	srv.send(srv.ike, wanIP, ikePacket(0x2222, 33, 34))
	nas.gets(nas.ike, server, ikePacket(0x2222, 33, 34))
	srv.send(srv.ike, wanIP, ikePacket(0x1111, 46, 37))
	pc.gets(pc.ike, server, ikePacket(0x1111, 46, 37))
	pc.nothing(pc.ike)
	nas.nothing(nas.ike)

	// ESP goes to both, whoever it is for, also in fragments.
	for _, size := range []int{100, 4000} {
		srv.send(srv.esp, wanIP, espPacket(0xb2, size))
		pc.gets(pc.esp, server, espPacket(0xb2, size))
		nas.gets(nas.esp, server, espPacket(0xb2, size))
	}
	nas.send(nas.esp, server, espPacket(0xa2, 100))
	srv.gets(srv.esp, wanIP, espPacket(0xa2, 100))

	// A new IKE SA that the server begins is offered to both; who does not know
	// it must not end it.
	srv.send(srv.ike, wanIP, ikePacket(0x3333, 46, 36))
	pc.gets(pc.ike, server, ikePacket(0x3333, 46, 36))
	nas.gets(nas.ike, server, ikePacket(0x3333, 46, 36))
	pc.send(pc.ike, server, ikePacket(0x3333, 41, 37)) // INVALID_IKE_SPI
	srv.nothing(srv.ike)
	nas.send(nas.ike, server, ikePacket(0x3333, 46, 36))
	srv.gets(srv.ike, wanIP, ikePacket(0x3333, 46, 36))
	srv.send(srv.ike, wanIP, ikePacket(0x3333, 46, 36))
	nas.gets(nas.ike, server, ikePacket(0x3333, 46, 36))
	pc.nothing(pc.ike)

	// A stranger reaches nobody and teaches nothing.
	before := len(n.learned(passthrough.Inbound))
	for spi := range uint32(300) {
		other.send(other.esp, wanIP, espPacket(0xc000+spi, 20))
	}
	other.send(other.ike, wanIP, ikePacket(0x4444, 33, 34))
	pc.nothing(pc.esp)
	nas.nothing(nas.esp)
	pc.nothing(pc.ike)
	if after := len(n.learned(passthrough.Inbound)); after != before {
		t.Errorf("a stranger's SPIs took %d places", after-before)
	}
	if out := n.learned(passthrough.Outbound); len(out) != 2 || out[0].Packets == 0 || out[0].Bytes == 0 {
		t.Errorf("outbound SPIs: %+v, want two with counters", out)
	}

	// Off is off at once, for both.
	n.set("set passthrough ipsec off")
	srv.send(srv.esp, wanIP, espPacket(0xb2, 100))
	pc.nothing(pc.esp)
	nas.nothing(nas.esp)
	pc.esp.WriteTo(espPacket(0xa1, 100), &net.IPAddr{IP: net.ParseIP(server)})
	srv.nothing(srv.esp)
}

// TestIPsecErrors: ICMP errors about ESP and IKE reach the device, quoting what
// it sent, with right checksums (the kernel of the device drops others).
func TestIPsecErrors(t *testing.T) {
	n := newNetwork(t)
	pc, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.wan, "server", server)
	pc.send(pc.ike, server, ikePacket(0x1111, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x1111, 33, 34))
	pc.send(pc.esp, server, espPacket(0xa1, 100))
	srv.gets(srv.esp, wanIP, espPacket(0xa1, 100))
	var icmp net.PacketConn
	var err error
	n.pc.Do(func() { icmp, err = net.ListenPacket("ip4:1", pcIP) })
	if err != nil {
		t.Fatal(err)
	}
	defer icmp.Close()
	var out net.PacketConn
	n.wan.Do(func() { out, err = net.ListenPacket("ip4:1", "203.0.113.1") })
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	udp := append([]byte{1, 0xf4, 1, 0xf4, 0, 36, 0, 0}, ikePacket(0x1111, 33, 34)...)
	for _, quoted := range [][]byte{ipv4(50, wanIP, server, espPacket(0xa1, 20)), ipv4(17, wanIP, server, udp)} {
		msg := append([]byte{3, 4, 0, 0, 0, 0, 0x05, 0x14}, quoted...) // fragmentation needed, MTU 1300
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
		if _, err := out.WriteTo(msg, &net.IPAddr{IP: net.ParseIP(wanIP)}); err != nil {
			t.Fatal(err)
		}
		icmp.SetReadDeadline(time.Now().Add(hang))
		b := make([]byte, 2048)
		k, _, err := icmp.ReadFrom(b)
		if err != nil {
			t.Fatalf("protocol %d: the error does not reach the device: %v", quoted[9], err)
		}
		want := ipv4(quoted[9], pcIP, server, quoted[20:])
		if got := b[8:k]; !bytes.Equal(got, want) {
			t.Errorf("protocol %d: quoted is\n%x, want\n%x", quoted[9], got, want)
		}
		if c := checksum(b[:k]); c != 0 {
			t.Errorf("protocol %d: the ICMP checksum is off by %#x", quoted[9], c)
		}
	}
}

// ipv4 is a packet with a header without options.
func ipv4(protocol byte, src, dst string, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], net.ParseIP(src).To4())
	copy(b[16:], net.ParseIP(dst).To4())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// checksum is RFC 1071's, 0 over what holds a right one.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
