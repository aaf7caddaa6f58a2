package firewall_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nflog"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/l2tp"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// socket is a UDP socket of a device or a server.
type socket struct {
	t    *testing.T
	name string
	conn net.PacketConn
}

func (n *network) socket(ns *nettest.NS, name, addr string) *socket {
	n.t.Helper()
	s := &socket{t: n.t, name: name}
	var err error
	ns.Do(func() { s.conn, err = net.ListenPacket("udp4", addr) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { s.conn.Close() })
	return s
}

func (s *socket) send(to string, b []byte) {
	s.t.Helper()
	if _, err := s.conn.WriteTo(b, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
}

// gets wants just this packet, and returns where it comes from.
func (s *socket) gets(want []byte) string {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(hang))
	b := make([]byte, 65536)
	n, from, err := s.conn.ReadFrom(b)
	if err != nil {
		s.t.Fatalf("%s got nothing: %v", s.name, err)
	}
	if !bytes.Equal(b[:n], want) {
		s.t.Fatalf("%s got %x, want %x", s.name, b[:min(n, 60)], want[:min(len(want), 60)])
	}
	return from.String()
}

func (s *socket) nothing() {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(soon))
	b := make([]byte, 2048)
	if n, from, err := s.conn.ReadFrom(b); err == nil {
		s.t.Fatalf("%s got %x from %v", s.name, b[:n], from)
	}
}

// l2tpControl is an L2TPv2 control message with AVPs; its sender assigned tunnel.
func l2tpControl(typ, headerTunnel, assigned uint16) []byte {
	b := []byte{0xc8, 2, 0, 0, byte(headerTunnel >> 8), byte(headerTunnel), 0, 0, 0, 0, 0, 0,
		0x80, 8, 0, 0, 0, 0, byte(typ >> 8), byte(typ), 0x80, 8, 0, 0, 0, 2, 1, 0}
	if assigned != 0 {
		b = append(b, 0x80, 8, 0, 0, 0, 9, byte(assigned>>8), byte(assigned))
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

const sccrq, sccrp, hello = 1, 2, 6

// l2tpData is a data message to a tunnel, with or without the Length field.
func l2tpData(tunnel uint16, length bool, payload string) []byte {
	b := []byte{0, 2, byte(tunnel >> 8), byte(tunnel), 0, 1}
	if length {
		n := 8 + len(payload)
		b = []byte{0x40, 2, byte(n >> 8), byte(n), byte(tunnel >> 8), byte(tunnel), 0, 1}
	}
	return append(b, payload...)
}

// calls listens for SCCRQs.
func (n *network) calls() <-chan nflog.Packet {
	n.t.Helper()
	var l *nflog.Listener
	var err error
	n.rtr.Do(func() { l, err = nflog.Listen(passthrough.L2TPLogGroup) })
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	out, done := make(chan nflog.Packet, 100), make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, func(p nflog.Packet) { out <- p })
	}()
	n.t.Cleanup(func() { stop(); <-done })
	return out
}

// learns takes the next SCCRQ as netd does: whose tunnel it is.
func (n *network) learns(calls <-chan nflog.Packet, tunnel uint16) (port uint16) {
	n.t.Helper()
	select {
	case p := <-calls:
		id, err := l2tp.AssignedTunnel(p.Data[28:])
		if err != nil || id != tunnel || p.Prefix != "sccrq" || netip.AddrFrom4([4]byte(p.Data[12:16])).String() != wanIP {
			n.t.Fatalf("told of %x: tunnel %#x, %v; want %#x from %s", p.Data, id, err, tunnel, wanIP)
		}
		port = binary.BigEndian.Uint16(p.Data[20:])
	case <-time.After(hang):
		n.t.Fatal("nobody was told of an SCCRQ")
	}
	var err error
	n.rtr.Do(func() {
		err = nft.New(nft.Options{}).Learn(passthrough.LearnedSet(passthrough.L2TPTunnels), ruleset.Element{
			Key: ruleset.Cat(ruleset.Addr(netip.MustParseAddr(server)), ruleset.PortNumber(int(tunnel))), Data: ruleset.PortNumber(int(port))})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return port
}

// TestL2TPAnotherPort: two devices of a server that answers from another port
// than the one that was called, RFC 2661 8.1.
func TestL2TPAnotherPort(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	pc, nas := n.socket(n.pc, "pc", pcIP+":1701"), n.socket(n.nas, "nas", nasIP+":1701")
	called := n.socket(n.wan, "server", server+":1701")
	answers := [2]*socket{n.socket(n.wan, "server for pc", server+":40001"), n.socket(n.wan, "server for nas", server+":40002")}
	var seen [2]string
	for i, device := range []*socket{pc, nas} {
		id := uint16(0x100 + i)
		device.send(server+":1701", l2tpControl(sccrq, 0, id))
		seen[i] = called.gets(l2tpControl(sccrq, 0, id))
		answers[i].send(seen[i], l2tpControl(sccrp, id, 0x900))
		if from := device.gets(l2tpControl(sccrp, id, 0x900)); from != fmt.Sprintf("%s:4000%d", server, i+1) {
			t.Errorf("%s got the answer from %s", device.name, from)
		}
		// From then on both ways, and what follows is the device's alone.
		device.send(fmt.Sprintf("%s:4000%d", server, i+1), l2tpControl(3, 0x900, 0))
		if from := answers[i].gets(l2tpControl(3, 0x900, 0)); from != seen[i] {
			t.Errorf("%s is seen as %s now, was %s", device.name, from, seen[i])
		}
	}
	if seen[0] == seen[1] {
		t.Fatalf("both devices are seen as %s", seen[0])
	}
	for _, size := range []int{100, 4000} { // the larger one in fragments
		for i, device := range []*socket{pc, nas} {
			b := l2tpData(0x100+uint16(i), true, string(bytes.Repeat([]byte{byte(i)}, size)))
			answers[i].send(seen[i], b)
			device.gets(b)
		}
	}
	// Nobody else comes in this way, and the server with nothing else.
	other := n.socket(n.wan, "stranger", stranger+":40001")
	for _, to := range seen {
		other.send(to, l2tpControl(sccrp, 0x100, 0x900))
	}
	n.socket(n.wan, "server", server+":40003").send(seen[1], []byte("\xc8\x03 is L2TPv3"))
	pc.nothing()
	nas.nothing()
}

// TestL2TPAlways1701: two devices of a server that answers to port 1701
// whatever port called, from port 1701 and from another one.
func TestL2TPAlways1701(t *testing.T) {
	for _, from := range []string{"1701", "40001"} {
		t.Run("from "+from, func(t *testing.T) {
			n := newNetwork(t)
			calls := n.calls()
			pc, nas := n.socket(n.pc, "pc", pcIP+":1701"), n.socket(n.nas, "nas", nasIP+":1701")
			called := n.socket(n.wan, "server", server+":1701")
			answers := called
			if from != "1701" {
				answers = n.socket(n.wan, "server", server+":"+from)
			}
			const fixed = wanIP + ":1701"
			for i, device := range []*socket{pc, nas} {
				id := uint16(0x100 + i)
				device.send(server+":1701", l2tpControl(sccrq, 0, id))
				seen := called.gets(l2tpControl(sccrq, 0, id))
				if port := n.learns(calls, id); seen != fmt.Sprintf("%s:%d", wanIP, port) || (port == 1701) != (i == 0) {
					t.Fatalf("%s is seen as %s, netd reads port %d", device.name, seen, port)
				}
			}
			// In the other order, so that no port is known by accident.
			for i, device := range []*socket{nas, pc} {
				id := uint16(0x101 - i)
				answers.send(fixed, l2tpControl(sccrp, id, 0x900))
				if got := device.gets(l2tpControl(sccrp, id, 0x900)); got != server+":"+from {
					t.Errorf("%s got the answer from %s", device.name, got)
				}
				device.send(server+":"+from, l2tpControl(3, 0x900, 0))
				answers.gets(l2tpControl(3, 0x900, 0))
			}
			n.dataTo1701(answers, pc, nas, from)
			n.forgottenTo1701(answers, pc, nas, from)
		})
	}
}

// dataTo1701 sends data of a server's port from to port 1701, which pc has, in
// all forms that it may have.
func (n *network) dataTo1701(answers, pc, nas *socket, from string) {
	n.t.Helper()
	const fixed = wanIP + ":1701"
	for _, length := range []bool{true, false} {
		for i, device := range []*socket{pc, nas} {
			b := l2tpData(0x100+uint16(i), length, "odd payload")
			answers.send(fixed, b)
			device.gets(b)
			b = l2tpData(0x100+uint16(i), length, string(make([]byte, 3000)))
			answers.send(fixed, b)
			device.gets(b)
		}
	}
	// Data may come without a checksum (RFC 2661 8.1).
	b := l2tpData(0x101, true, "unsummed")
	port := binary.BigEndian.AppendUint16(nil, uint16(netip.MustParseAddrPort(server+":"+from).Port()))
	udp := append(append(port, 1701>>8, 1701&255, 0, byte(8+len(b)), 0, 0), b...)
	n.send(n.raw(n.wan, unix.IPPROTO_RAW), wanIP, ipv4(17, server, wanIP, udp))
	nas.gets(b)
	// A Tunnel ID of nobody goes to whose port it is sent to.
	answers.send(fixed, l2tpData(0x777, true, "x"))
	pc.gets(l2tpData(0x777, true, "x"))
	nas.nothing()
}

// forgottenTo1701: neither conntrack's entries nor the ruleset hold what was
// learned, and off ends it.
func (n *network) forgottenTo1701(answers, pc, nas *socket, from string) {
	n.t.Helper()
	const fixed = wanIP + ":1701"
	// The table of connections may have forgotten them.
	n.forgetAll()
	for i, device := range []*socket{pc, nas} {
		b := l2tpData(0x100+uint16(i), true, "after")
		answers.send(fixed, b)
		device.gets(b)
		device.send(server+":"+from, l2tpData(0x900, true, "back"))
		answers.gets(l2tpData(0x900, true, "back"))
	}
	// A change of the ruleset forgets nothing; off forgets and ends it all.
	n.set("set firewall wan-ping on")
	if got := len(n.learned(passthrough.L2TPTunnels)); got != 2 {
		n.t.Errorf("%d tunnels after a change of the ruleset, want 2", got)
	}
	n.set("set passthrough l2tp off")
	answers.send(fixed, l2tpData(0x101, true, "off"))
	nas.nothing()
}

// forgetAll empties the table of connections.
func (n *network) forgetAll() {
	n.t.Helper()
	var err error
	n.rtr.Do(func() {
		var c *conntrack.Conn
		if c, err = conntrack.New(); err == nil {
			_, err = c.Delete(func(*conntrack.Entry) bool { return true })
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// TestL2TPLearning: what teaches and what does not.
func TestL2TPLearning(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	n.set("set firewall vpn-server l2tp to " + nasIP)
	calls := n.calls()
	pc, nas := n.socket(n.pc, "pc", pcIP+":1701"), n.socket(n.nas, "nas", nasIP+":1701")
	called, peer := n.socket(n.wan, "server", server+":1701"), n.socket(n.wan, "peer", stranger+":1701")
	silent := func(what string) {
		t.Helper()
		select {
		case p := <-calls:
			t.Errorf("%s: told of %x", what, p.Data)
		case <-time.After(soon):
		}
	}
	// Data, and messages of a tunnel that is up, are no calls.
	pc.send(server+":1701", l2tpData(0, true, "\x80\x08\x00\x00\x00\x00\x00\x01 not a call"))
	called.gets(l2tpData(0, true, "\x80\x08\x00\x00\x00\x00\x00\x01 not a call"))
	if got := n.learned(passthrough.L2TPPorts); len(got) != 0 {
		t.Errorf("data taught %d flows", len(got))
	}
	pc.send(server+":1701", l2tpControl(hello, 0x900, 0))
	called.gets(l2tpControl(hello, 0x900, 0))
	silent("a Hello")
	if got := n.learned(passthrough.L2TPPorts); len(got) != 1 {
		t.Errorf("a Hello leaves %d flows, want its own", len(got))
	}
	// A peer that calls the LAN's server teaches nothing, nor does its answer.
	peer.send(wanIP+":1701", l2tpControl(sccrq, 0, 0x200))
	nas.gets(l2tpControl(sccrq, 0, 0x200))
	nas.send(stranger+":1701", l2tpControl(sccrp, 0x200, 0x300))
	peer.gets(l2tpControl(sccrp, 0x200, 0x300))
	silent("a peer's call")
	if got := n.learned(passthrough.L2TPPorts); len(got) != 1 {
		t.Errorf("%d flows after a peer's call, want no more than before", len(got))
	}
	// A server that the protocol is not for.
	n.set("set passthrough l2tp servers " + stranger)
	pc.send(server+":1701", l2tpControl(sccrq, 0, 0x100))
	called.nothing()
	silent("a server that is not allowed")
	n.set("set passthrough l2tp servers any")
	// A server at another port, which is one of the settings.
	elsewhere := n.socket(n.wan, "server", server+":1702")
	pc.send(server+":1702", l2tpControl(sccrq, 0, 0x101))
	elsewhere.gets(l2tpControl(sccrq, 0, 0x101))
	silent("a port that is not L2TP's")
	n.set("set passthrough l2tp ports 1701 1702")
	pc.send(server+":1702", l2tpControl(sccrq, 0, 0x101))
	elsewhere.gets(l2tpControl(sccrq, 0, 0x101))
	n.learns(calls, 0x101)
}

// TestL2TPFlood: one device does not fill the tables, and leaves room for others.
func TestL2TPFlood(t *testing.T) {
	n := newNetwork(t)
	calls := n.calls()
	pc, nas := n.socket(n.pc, "pc", pcIP+":1701"), n.socket(n.nas, "nas", nasIP+":1701")
	called := n.socket(n.wan, "server", server+":1701")
	n.wan.Run(t, "ip route add local 100.64.0.0/16 dev lo")
	for i := range 3000 {
		pc.send(fmt.Sprintf("100.64.%d.%d:1701", i>>8, i&255), l2tpControl(sccrq, 0, uint16(i+1)))
	}
	if got := len(n.learned(passthrough.L2TPPorts)); got > 100 {
		t.Errorf("one device made the router learn %d flows", got)
	}
	told := 0
	for end := time.After(2 * soon); end != nil; {
		select {
		case <-calls:
			told++
		case <-end:
			end = nil
		}
	}
	if told > 35 {
		t.Errorf("netd was told of %d calls of one device", told)
	}
	nas.send(server+":1701", l2tpControl(sccrq, 0, 0x400))
	called.gets(l2tpControl(sccrq, 0, 0x400))
	n.learns(calls, 0x400)
}
