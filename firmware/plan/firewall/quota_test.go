package firewall_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// flood is how many packets an attack has, several times the room of a set.
const flood = 20000

// drain throws away what has come.
func (e *end) drain() {
	b := make([]byte, 2048)
	for _, c := range []net.PacketConn{e.esp, e.ike} {
		for {
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, _, err := c.ReadFrom(b); err != nil {
				break
			}
		}
	}
}

// learn adds an address to a learned set, as netd does.
func (n *network) learn(set string, a string) {
	n.t.Helper()
	var err error
	n.rtr.Do(func() {
		err = nft.New(nft.Options{}).Learn(passthrough.LearnedSet(set), ruleset.Element{Key: ruleset.Addr(netip.MustParseAddr(a))})
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// few checks that a flood left no more than a device's bucket holds.
func (n *network) few(set string) {
	n.t.Helper()
	if k := len(n.learned(set)); k < 20 || k > 100 {
		n.t.Errorf("%d packets left %d elements in %s, want the 64 of a bucket and a few", flood, k, set)
	}
}

// TestQuotas: one device or one server that floods takes no room from others,
// and keeps what it had.
func TestQuotas(t *testing.T) {
	for _, c := range []struct {
		name, set string
		send      func(n *network, pc *end, i int)
	}{
		{"SPIs", passthrough.Outbound, func(n *network, pc *end, i int) { pc.send(pc.esp, server, espPacket(0x10000+uint32(i), 20)) }},
		{"cookies", passthrough.Cookies, func(n *network, pc *end, i int) {
			pc.send(pc.ike, server, ikePacket(0x10000+uint64(i), 33, 34))
		}},
		{"servers by ESP", passthrough.Assocs, func(n *network, pc *end, i int) { pc.send(pc.esp, elsewhere(i), espPacket(0xa1, 20)) }},
		{"servers by IKE", passthrough.First, func(n *network, pc *end, i int) { pc.send(pc.ike, elsewhere(i), ikePacket(0x1111, 33, 34)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo\nip route add blackhole 198.18.0.0/15")
			pc, nas := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP)
			srv, other := newEnd(t, n.wan, "server", server), newEnd(t, n.wan, "other server", stranger)
			both(pc, srv, server, 0x1111, 0xa1, 0xb1)
			for i := range flood {
				c.send(n, pc, i)
			}
			n.few(c.set)
			srv.drain()
			both(nas, other, stranger, 0x2222, 0xa2, 0xb2)
			both(pc, srv, server, 0x1111, 0xa1, 0xb1)
			if got := n.learned(passthrough.Excess); len(got) != 1 || got[0].Packets < flood*9/10 ||
				got[0].Key != ruleset.Addr(netip.MustParseAddr(pcIP)) {
				t.Errorf("counted as too much: %+v, want most of %d packets of %s", got, flood, pcIP)
			}
		})
	}
}

// elsewhere is one of many servers.
func elsewhere(i int) string {
	return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String()
}

// both sends IKE and ESP there and back.
func both(device, srv *end, addr string, cookie uint64, out, in uint32) {
	device.t.Helper()
	device.send(device.ike, addr, ikePacket(cookie, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(cookie, 33, 34))
	srv.send(srv.ike, wanIP, ikePacket(cookie, 33, 34))
	device.gets(device.ike, addr, ikePacket(cookie, 33, 34))
	device.send(device.esp, addr, espPacket(out, 100))
	srv.gets(srv.esp, wanIP, espPacket(out, 100))
	srv.send(srv.esp, wanIP, espPacket(in, 100))
	device.gets(device.esp, addr, espPacket(in, 100))
}

// TestForgedServer: who forges the address of a server that a device talks to
// fills no table, takes nothing from the learning of another server, and
// reaches that device alone.
func TestForgedServer(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	pc, nas := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP)
	srv, other := newEnd(t, n.wan, "server", server), newEnd(t, n.wan, "other server", stranger)
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	nas.send(nas.ike, stranger, ikePacket(0x2222, 33, 34))
	other.gets(other.ike, wanIP, ikePacket(0x2222, 33, 34))
	for i := range flood {
		srv.send(srv.esp, wanIP, espPacket(0x10000+uint32(i), 20))
	}
	other.send(other.esp, wanIP, espPacket(0xb2, 100)) // before any bucket has filled again
	nas.gets(nas.esp, stranger, espPacket(0xb2, 100))
	n.few(passthrough.Inbound)
	if !n.knows(passthrough.Inbound, stranger) {
		t.Error("the SPI of another server is not learned")
	}
	nas.nothing(nas.esp)
	pc.drain()
	// What is not learned is delivered all the same.
	srv.send(srv.esp, wanIP, espPacket(0x9999999, 20))
	pc.gets(pc.esp, server, espPacket(0x9999999, 20))
}

// TestSharedFloods: neither a device nor who forges a server fills what is kept
// of bursts, by which owners are learned.
func TestSharedFloods(t *testing.T) {
	const short = 4000 // before the first are forgotten
	n := newNetwork(t)
	pc, nas, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP), newEnd(t, n.wan, "server", server)
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	n.share(pcIP, nasIP)
	for i := range short {
		pc.send(pc.esp, server, espPacket(0x10000+uint32(i), 20))
	}
	if k := len(n.learned("said")); k > 100 {
		t.Errorf("a device's SPIs take %d places", k)
	}
	for i := range short {
		srv.send(srv.esp, wanIP, espPacket(0x10000+uint32(i), 20))
	}
	if k := len(n.learned("heard")); k > 100 {
		t.Errorf("a server's SPIs take %d places", k)
	}
	for _, e := range []*end{pc, nas, srv} {
		e.drain()
	}
	srv.send(srv.esp, wanIP, espPacket(0x9999999, 20))
	pc.gets(pc.esp, server, espPacket(0x9999999, 20))
	nas.gets(nas.esp, server, espPacket(0x9999999, 20))
}

// knows tells whether a key of the set begins with the address.
func (n *network) knows(set, addr string) bool {
	for _, e := range n.learned(set) {
		if strings.HasPrefix(string(e.Key), string(ruleset.Addr(netip.MustParseAddr(addr)))) {
			return true
		}
	}
	return false
}

// TestCrowding: who has more than a share learns nothing new, keeps what it
// has, and disturbs nobody.
func TestCrowding(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	pc, nas := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP)
	srv, other := newEnd(t, n.wan, "server", server), newEnd(t, n.wan, "other server", stranger)
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	n.rtr.Run(t, "nft add element ip culvert crowding { "+pcIP+" expires 10s }")
	n.learn(passthrough.Crowding, pcIP)
	if got := n.learned(passthrough.Crowding); len(got) != 1 || got[0].Expires < time.Minute {
		t.Errorf("what is learned again does not live on: %+v", got)
	}
	n.learn(passthrough.Crowding, server)
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	pc.send(pc.esp, server, espPacket(0xa9, 100))
	srv.nothing(srv.esp)
	pc.send(pc.ike, server, ikePacket(0x9999, 33, 34))
	pc.send(pc.ike, stranger, ikePacket(0x9999, 33, 34))
	srv.nothing(srv.ike)
	other.nothing(other.ike)
	srv.send(srv.esp, wanIP, espPacket(0xb9, 100))
	pc.gets(pc.esp, server, espPacket(0xb9, 100))
	if k := len(n.learned(passthrough.Inbound)); k != 1 {
		t.Errorf("%d SPIs of the server, want 1", k)
	}
	both(nas, other, stranger, 0x2222, 0xa2, 0xb2)
}

// TestStolenCookie: a second device that sends the initiator's SPI of the first
// one gets none of its packets.
func TestStolenCookie(t *testing.T) {
	n := newNetwork(t)
	pc, nas, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP), newEnd(t, n.wan, "server", server)
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	n.share(pcIP, nasIP)
	for range 3 {
		nas.send(nas.ike, server, ikePacket(0x1111, 46, 35))
		srv.gets(srv.ike, wanIP, ikePacket(0x1111, 46, 35))
		srv.send(srv.ike, wanIP, ikePacket(0x1111, 46, 35))
		pc.gets(pc.ike, server, ikePacket(0x1111, 46, 35))
		nas.nothing(nas.ike)
	}
}

// TestZones: only what the LAN sends with the LAN's addresses teaches.
func TestZones(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add 192.168.1.66/32 dev lo\nip route add "+stranger+"/32 via 203.0.113.2")
	n.pc.Run(t, "ip addr add 10.9.9.9/32 dev lo")
	forged, off := newEnd(t, n.wan, "the Internet", "192.168.1.66"), newEnd(t, n.pc, "off the LAN's subnet", "10.9.9.9")
	for _, e := range []*end{forged, off} {
		for range 3 {
			e.send(e.ike, stranger, ikePacket(0x6666, 33, 34))
			e.send(e.esp, stranger, espPacket(0x66, 20))
		}
	}
	for _, set := range []string{passthrough.Assocs, passthrough.First, passthrough.Cookies, passthrough.Outbound} {
		if got := n.learned(set); len(got) > 0 {
			t.Errorf("%s: %+v", set, got)
		}
	}
}

// TestIdleHours: a device that is silent for an hour still gets what its server
// sends first, and every packet of a device makes all that delivery needs live
// on.
func TestIdleHours(t *testing.T) {
	n := newNetwork(t)
	pc, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.wan, "server", server)
	sets := []string{"servers", passthrough.Assocs, passthrough.First, passthrough.Cookies}
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	for _, set := range sets {
		for _, e := range n.learned(set) {
			if e.Expires < 4*time.Hour {
				t.Errorf("%s forgets within %v", set, e.Expires)
			}
		}
	}
	// What an hour takes away, and a packet each way.
	n.rtr.Run(t, "nft flush map ip culvert outbound\nnft flush set ip culvert inbound")
	srv.send(srv.esp, wanIP, espPacket(0xb1, 100))
	pc.gets(pc.esp, server, espPacket(0xb1, 100))
	pc.send(pc.esp, server, espPacket(0xa1, 100))
	srv.gets(srv.esp, wanIP, espPacket(0xa1, 100))

	// All but gone: one packet, of ESP (but for a moment after another) or of IKE, renews it.
	for _, packet := range []struct {
		c, far net.PacketConn
		data   []byte
	}{{pc.esp, srv.esp, espPacket(0xa1, 100)}, {pc.ike, srv.ike, ikePacket(0x1111, 46, 37)}} {
		n.rtr.Run(t, "nft flush set ip culvert servers\nnft flush set ip culvert assocs\nnft flush map ip culvert first\nnft flush set ip culvert fresh\n"+
			"nft add element ip culvert servers { "+server+" timeout 3s }\n"+
			"nft add element ip culvert assocs { "+server+" . "+pcIP+" timeout 3s }\n"+
			"nft add element ip culvert first { "+server+" timeout 3s : "+pcIP+" }")
		pc.send(packet.c, server, packet.data)
		srv.gets(packet.far, wanIP, packet.data)
		for _, set := range sets[:3] {
			if got := n.learned(set); len(got) != 1 || got[0].Expires < 4*time.Hour {
				t.Errorf("%s is not renewed: %+v", set, got)
			}
		}
	}
}
