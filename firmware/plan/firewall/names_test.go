package firewall_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

func mac(t *testing.T, ns *nettest.NS) string {
	t.Helper()
	_, rest, _ := strings.Cut(ns.Run(t, "ip -o link show dev eth0"), "link/ether ")
	if len(rest) < 17 {
		t.Fatal("eth0 has no hardware address")
	}
	return rest[:17]
}

// protocols sends one packet of each kind from an address to the server, and
// checks that all come there or all are refused; IKE also in fragments.
func (n *network) protocols(ns *nettest.NS, from string, pass bool) {
	n.t.Helper()
	src := netip.MustParseAddr(from).As4()
	// What a device that may has is in the way of the next one.
	n.rtr.Run(n.t, "nft flush ruleset")
	n.apply()
	n.rtr.Do(func() {
		c, err := conntrack.New()
		if err == nil {
			_, err = c.Delete(func(*conntrack.Entry) bool { return true })
		}
		if err != nil {
			n.t.Error(err)
		}
	})
	for _, p := range []struct {
		name     string
		protocol int
		payload  []byte
	}{
		{"gre", unix.IPPROTO_GRE, []byte("\x00\x00\x08\x00payload.")},
		{"esp", unix.IPPROTO_ESP, espPacket(0xa1, 100)},
		{"ike", unix.IPPROTO_UDP, udpPacket(500, ikePacket(0x1111, 33, 34))},
		{"ike in fragments", unix.IPPROTO_UDP, udpPacket(500, append(ikePacket(0x2222, 33, 34), make([]byte, 4000)...))},
		{"nat-t", unix.IPPROTO_UDP, udpPacket(4500, []byte("\x00\x00\x00\x00ike"))},
		{"l2tp", unix.IPPROTO_UDP, udpPacket(1701, []byte("\xc8\x02"))},
	} {
		hear, icmp := n.raw(n.wan, p.protocol), n.raw(ns, unix.IPPROTO_ICMP)
		fd := n.raw(ns, p.protocol)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: src}); err != nil {
			n.t.Fatal(err)
		}
		n.send(fd, server, p.payload)
		if !pass {
			n.prohibited(icmp, byte(p.protocol))
			b := make([]byte, 65536)
			if k, _, err := unix.Recvfrom(hear, b, unix.MSG_DONTWAIT); err == nil {
				n.t.Errorf("%s from %s came through: %x", p.name, from, b[:k])
			}
			continue
		}
		b := make([]byte, 65536)
		if k, _, err := unix.Recvfrom(hear, b, 0); err != nil || !bytes.HasSuffix(b[:k], p.payload[len(p.payload)-2:]) || k != 20+len(p.payload) {
			n.t.Errorf("%s from %s: %d bytes of %d, %v", p.name, from, k, 20+len(p.payload), err)
		}
	}
	learned := 0
	for _, e := range n.learned(passthrough.Assocs) {
		if netip.AddrFrom4([4]byte([]byte(e.Key[4:8]))) == netip.AddrFrom4(src) {
			learned++
		}
	}
	if want := map[bool]int{true: 1}[pass]; learned != want {
		n.t.Errorf("%s has %d associations, want %d", from, learned, want)
	}
}

// udpPacket has both ports alike and no checksum.
func udpPacket(port uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, port)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// TestDeviceByMAC: who is named is that device: with its fixed address and
// with that of a lease, and nobody who takes one of them.
func TestDeviceByMAC(t *testing.T) {
	n := newNetwork(t)
	n.serve(n.wan, server+":1723")
	const leased = "192.168.1.101"
	n.nas.Run(t, "ip addr add "+leased+"/24 dev eth0")
	named := "set lan hosts nas mac " + mac(t, n.nas) + " address " + nasIP + "\nset lan groups office members nas\n"
	for _, p := range []string{"pptp", "l2tp", "ipsec"} {
		named += "set passthrough " + p + " devices office\n"
	}
	n.set(named)
	n.protocols(n.nas, nasIP, true)
	n.reach(n.nas, server+":1723")
	n.protocols(n.pc, pcIP, false)
	n.protocols(n.nas, leased, false) // nothing tells that it is its own

	lease := facts.Lease{MAC: mac(t, n.nas), Addr: netip.MustParseAddr(leased), Name: "whatever"}
	n.informed(facts.Facts{Leases: []facts.Lease{lease}})
	n.protocols(n.nas, leased, true)
	n.protocols(n.nas, nasIP, true)

	// Another device takes both addresses.
	n.nas.Run(t, "ip link set eth0 down")
	n.pc.Run(t, "ip addr add "+nasIP+"/24 dev eth0\nip addr add "+leased+"/24 dev eth0")
	n.rtr.Run(t, "ip neigh flush all")
	n.protocols(n.pc, nasIP, false)
	n.protocols(n.pc, leased, false)
	if _, err := n.dialFrom(n.pc, nasIP, server+":1723"); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("PPTP from the address of another: %v", err)
	}
	// A name that a device gives itself is worth nothing.
	lease = facts.Lease{MAC: mac(t, n.pc), Addr: netip.MustParseAddr(pcIP), Name: "nas"}
	n.informed(facts.Facts{Leases: []facts.Lease{lease}})
	n.protocols(n.pc, pcIP, false)

	// Who is named by address is whoever has it, as it says.
	n.set("set passthrough pptp devices " + nasIP + "\nset passthrough l2tp devices " + nasIP + "\nset passthrough ipsec devices " + nasIP)
	n.protocols(n.pc, nasIP, true)
	n.protocols(n.pc, leased, false)
}

// TestDeviceByMACWithoutBridge: the same where the LAN is one port.
func TestDeviceByMACWithoutBridge(t *testing.T) {
	n := newNetwork(t)
	n.rtr.Run(t, "ip link del br-lan\nip link set p2 down\nip link set p2 name br-lan\nip link set br-lan up\nip addr add 192.168.1.1/24 dev br-lan")
	n.nas.Run(t, "ip route replace default via 192.168.1.1")
	host := "set lan hosts nas mac " + mac(t, n.nas) + " address " + nasIP + "\nset passthrough pptp devices nas\nset passthrough l2tp devices nas\nset passthrough ipsec devices nas"
	n.set(host)
	n.protocols(n.nas, nasIP, true)
	n.nas.Run(t, "ip link set eth0 address 02:00:00:00:00:99")
	n.protocols(n.nas, nasIP, false)
}

func (n *network) dialFrom(ns *nettest.NS, from, addr string) (conn net.Conn, err error) {
	ns.Do(func() {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: hang}
		conn, err = d.Dial("tcp4", addr)
	})
	if err == nil {
		n.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// TestServerByName: where a name leads to, tunnels may go, and only there: at
// first nowhere, then to what DNS says, then to what it says later.
func TestServerByName(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	n.serve(n.wan, server+":1723")
	n.serve(n.wan, stranger+":1723")
	n.answer(n.wan, server+":1701")
	says := func(addrs ...string) {
		t.Helper()
		name := facts.Name{Name: "vpn.example.com"}
		for _, a := range addrs {
			name.Addrs = append(name.Addrs, netip.MustParseAddr(a))
		}
		n.informed(facts.Facts{Names: []facts.Name{name}})
	}
	refused := func(addr string) {
		t.Helper()
		if _, err := n.dial(n.pc, addr+":1723", hang); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	n.set("set passthrough pptp servers vpn.example.com\nset passthrough l2tp servers vpn.example.com")
	refused(server)
	refused(stranger)
	says(server)
	n.reach(n.pc, server+":1723")
	refused(stranger)
	if got := n.ask(n.pc, server+":1701", hang); got != wanIP+" hello" {
		t.Fatalf("L2TP: %q", got)
	}
	says(server, stranger)
	n.reach(n.pc, server+":1723")
	n.reach(n.pc, stranger+":1723")
	if got := n.ask(n.pc, server+":1701", hang); got != wanIP+" hello" {
		t.Fatalf("L2TP: %q", got)
	}
	says(stranger)
	refused(server)
	n.reach(n.pc, stranger+":1723")
	for _, e := range n.connections() {
		if e.Protocol == unix.IPPROTO_UDP && e.Orig.Dst.String() == server {
			t.Errorf("a connection is left to where the name does not lead any more: %+v", e)
		}
	}
	says()
	refused(stranger)
}
