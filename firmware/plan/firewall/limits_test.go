package firewall_test

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

// TestDevicesAndServers: PPTP between other ends is refused as by off, at once
// and when it runs; between the right ones it goes on.
func TestDevicesAndServers(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	const first, second = server + ":1723", stranger + ":1723"
	n.serve(n.wan, first)
	n.serve(n.wan, second)
	n.serve(n.nas, nasIP+":1723")
	n.set("set firewall forward vpn port 4723 to " + nasIP + " to-port 1723")
	refused := func(ns *nettest.NS, addr string) {
		t.Helper()
		if _, err := n.dial(ns, addr, hang); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	gre := func(ns *nettest.NS, to string, pass bool) {
		t.Helper()
		hear, icmp := n.raw(n.wan, unix.IPPROTO_GRE), n.raw(ns, unix.IPPROTO_ICMP)
		n.send(n.raw(ns, unix.IPPROTO_GRE), to, []byte("\x00\x00\x08\x00payload."))
		if pass {
			n.receive(hear, "payload", "")
		} else {
			n.prohibited(icmp, unix.IPPROTO_GRE)
		}
	}
	running, err := n.dial(n.pc, first, hang)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := n.dial(n.nas, first, hang)
	if err != nil {
		t.Fatal(err)
	}

	n.set("set passthrough pptp devices " + nasIP)
	icmp := n.raw(n.pc, unix.IPPROTO_ICMP)
	running.Write([]byte("more"))
	n.prohibited(icmp, unix.IPPROTO_TCP)
	refused(n.pc, first)
	gre(n.pc, server, false)
	n.reach(n.nas, first)
	gre(n.nas, server, true)
	n.reach(n.wan, wanIP+":4723")
	greeting := make([]byte, 16)
	kept.Write([]byte("more"))
	for _, want := range []int{16, 4} {
		if k, err := kept.Read(greeting); err != nil || k != want {
			t.Fatalf("the session of a device that may: %d bytes, %v", k, err)
		}
	}

	n.set("set passthrough pptp devices any\nset passthrough pptp servers " + server + " 192.0.2.0/24")
	n.reach(n.pc, first)
	refused(n.pc, second)
	gre(n.pc, stranger, false)
	refused(n.wan, wanIP+":4723") // calls from 203.0.113.1

	n.set("set passthrough pptp servers any")
	n.reach(n.pc, second)
	n.reach(n.wan, wanIP+":4723")
	gre(n.pc, stranger, true)
}

// TestNarrowedFlows: what the flowtable may carry is ended by the commit, and
// nothing of a device that may go on.
func TestNarrowedFlows(t *testing.T) {
	n := newNetwork(t)
	n.answer(n.wan, server+":1701")
	for _, ns := range []*nettest.NS{n.pc, n.nas} {
		if got := n.ask(ns, server+":1701", hang); got != wanIP+" hello" {
			t.Fatalf("L2TP: %q", got)
		}
	}
	n.set("set passthrough l2tp devices " + nasIP)
	var left []string
	for _, e := range n.connections() {
		if e.Protocol == unix.IPPROTO_UDP && e.Orig.DstPort == 1701 {
			left = append(left, e.Orig.Src.String())
		}
	}
	if len(left) != 1 || left[0] != nasIP {
		t.Errorf("connections left: %v, want one of %s", left, nasIP)
	}
	if got := n.ask(n.nas, server+":1701", hang); got != wanIP+" hello" {
		t.Errorf("the device that may: %q", got)
	}
	icmp := n.raw(n.pc, unix.IPPROTO_ICMP)
	if got := n.ask(n.pc, server+":1701", soon); got != "" {
		t.Errorf("the device that may not: %q", got)
	}
	n.prohibited(icmp, unix.IPPROTO_UDP)
}

// TestNativeIPsecLimited: a device that may not is neither delivered to nor
// learned, though it was before.
func TestNativeIPsecLimited(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	pc, nas, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP), newEnd(t, n.wan, "server", server)
	other := newEnd(t, n.wan, "other server", stranger)
	out := func(e *end, to *end, addr string) {
		t.Helper()
		e.send(e.esp, addr, espPacket(0xa1, 100))
		to.gets(to.esp, wanIP, espPacket(0xa1, 100))
	}
	refused := func(e *end, ns *nettest.NS, to *end, addr string) {
		t.Helper()
		icmp := n.raw(ns, unix.IPPROTO_ICMP)
		e.esp.WriteTo(espPacket(0xa1, 100), &net.IPAddr{IP: net.ParseIP(addr)})
		n.prohibited(icmp, unix.IPPROTO_ESP)
		e.ike.WriteTo(ikePacket(0x5555, 33, 34), &net.UDPAddr{IP: net.ParseIP(addr), Port: 500})
		n.prohibited(icmp, unix.IPPROTO_UDP)
		to.nothing(to.esp)
		to.nothing(to.ike)
	}
	pc.send(pc.ike, server, ikePacket(0x1111, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x1111, 33, 34))
	n.share(pcIP, nasIP)
	out(pc, srv, server)
	out(nas, srv, server)
	srv.send(srv.esp, wanIP, espPacket(0xb1, 100))
	pc.gets(pc.esp, server, espPacket(0xb1, 100))
	nas.gets(nas.esp, server, espPacket(0xb1, 100))

	// Copies end, and what a learned cookie leads to the device.
	n.set("set passthrough ipsec devices " + nasIP)
	n.applyShared(pcIP, nasIP)
	srv.send(srv.esp, wanIP, espPacket(0xb2, 100))
	nas.gets(nas.esp, server, espPacket(0xb2, 100))
	told := n.raw(n.wan, unix.IPPROTO_ICMP)
	srv.send(srv.ike, wanIP, ikePacket(0x1111, 46, 37))
	pc.nothing(pc.esp)
	pc.nothing(pc.ike)
	b := make([]byte, 100)
	if k, _, err := unix.Recvfrom(told, b, unix.MSG_DONTWAIT); err == nil {
		t.Errorf("the server is told of the device: %x", b[:k])
	}
	refused(pc, n.pc, srv, server)
	out(nas, srv, server)

	// A new server learns nothing of it, so nobody else has to wait for netd.
	before := len(n.learned(passthrough.Assocs))
	refused(pc, n.pc, other, stranger)
	if after := len(n.learned(passthrough.Assocs)); after != before {
		t.Errorf("a refused device has %d associations", after-before)
	}
	out(nas, other, stranger)

	// The same by server.
	n.set("set passthrough ipsec devices any\nset passthrough ipsec servers " + server)
	n.applyShared(pcIP, nasIP)
	refused(nas, n.nas, other, stranger)
	other.send(other.esp, wanIP, espPacket(0xb3, 100))
	other.send(other.ike, wanIP, ikePacket(0x6666, 33, 34))
	nas.nothing(nas.esp)
	nas.nothing(nas.ike)
	srv.send(srv.esp, wanIP, espPacket(0xb4, 100))
	pc.gets(pc.esp, server, espPacket(0xb4, 100))
	nas.gets(nas.esp, server, espPacket(0xb4, 100))
}
