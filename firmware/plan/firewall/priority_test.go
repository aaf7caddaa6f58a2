package firewall_test

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestPriority: the device that is named has port 1701 outside, whoever came
// first, at every server.
func TestPriority(t *testing.T) {
	n := newNetwork(t)
	n.set("set passthrough priority " + nasIP)
	pc, nas := n.socket(n.pc, "pc", pcIP+":1701"), n.socket(n.nas, "nas", nasIP+":1701")
	srv := n.socket(n.wan, "server", server+":1701")
	port := func(s *socket) uint16 {
		t.Helper()
		s.send(server+":1701", []byte("hello of "+s.name))
		seen := srv.gets([]byte("hello of " + s.name))
		srv.send(seen, []byte("hello"))
		s.gets([]byte("hello"))
		return netip.MustParseAddrPort(seen).Port()
	}
	if got := port(pc); got <= 1701 {
		t.Errorf("the other device is seen at port %d", got)
	}
	if got := port(nas); got != 1701 {
		t.Errorf("the device that is named is seen at port %d", got)
	}
	// Other ports stay what they are, also of others.
	other := n.socket(n.pc, "pc", pcIP+":1600")
	if got := port(other); got != 1600 {
		t.Errorf("port 1600 became %d", got)
	}
	n.set("set passthrough priority none")
	n.forgetAll()
	if got := port(pc); got != 1701 {
		t.Errorf("without the setting the first device is seen at port %d", got)
	}
}

// TestPriorityNative: where copies are off, IKE of the device that is named keeps
// port 500, and ESP is its own.
func TestPriorityNative(t *testing.T) {
	n := newNetwork(t)
	n.set("set passthrough ipsec copy off\nset passthrough priority " + nasIP)
	pc, nas, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP), newEnd(t, n.wan, "server", server)
	pc.send(pc.ike, server, ikePacket(0x1111, 33, 34))
	b := make([]byte, 100)
	srv.ike.SetReadDeadline(time.Now().Add(hang))
	_, from, err := srv.ike.ReadFrom(b)
	if err != nil || from.(*net.UDPAddr).Port == 500 {
		t.Fatalf("the other device is seen as %v, %v", from, err)
	}
	if _, err := srv.ike.WriteTo(ikePacket(0x1111, 33, 34), from); err != nil {
		t.Fatal(err)
	}
	pc.gets(pc.ike, server, ikePacket(0x1111, 33, 34))
	nas.send(nas.ike, server, ikePacket(0x2222, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x2222, 33, 34)) // from port 500
	srv.send(srv.ike, wanIP, ikePacket(0x3333, 46, 36))
	nas.gets(nas.ike, server, ikePacket(0x3333, 46, 36))
	srv.send(srv.esp, wanIP, espPacket(0xb1, 100))
	nas.gets(nas.esp, server, espPacket(0xb1, 100))
	pc.nothing(pc.ike)
	pc.nothing(pc.esp)
}
