package firewall_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// fragments cuts an IPv4 packet without options into pieces of size bytes, a
// multiple of 8 (RFC 791).
func fragments(packet []byte, id uint16, size int) (out [][]byte) {
	header, data := packet[:20], packet[20:]
	for at := 0; at < len(data); at += size {
		end := min(at+size, len(data))
		b := append(bytes.Clone(header), data[at:end]...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], id)
		offset := uint16(at / 8)
		if end < len(data) {
			offset |= 0x2000 // more fragments
		}
		binary.BigEndian.PutUint16(b[6:], offset)
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
		out = append(out, b)
	}
	return out
}

// sendRaw sends packets with their own IP headers.
func (n *network) sendRaw(ns *nettest.NS, to string, packets ...[]byte) {
	n.t.Helper()
	fd := n.raw(ns, unix.IPPROTO_RAW)
	for _, b := range packets {
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()}); err != nil {
			n.t.Fatal(err)
		}
	}
}

// TestFragmentsOfTunnels: IKE and ESP in IP fragments pass both ways whatever
// order they come in.
func TestFragmentsOfTunnels(t *testing.T) {
	n := newNetwork(t)
	pc, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.wan, "server", server)
	both(pc, srv, server, 0x1111, 0xa1, 0xb1)
	ike := append(ikePacket(0x1111, 46, 35), bytes.Repeat([]byte{0xcc}, 3500)...)
	// A UDP checksum of 0 is none (RFC 768).
	udp := append([]byte{1, 0xf4, 1, 0xf4, byte((8 + len(ike)) >> 8), byte(8 + len(ike)), 0, 0}, ike...)
	id := uint16(0x4000)
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}} {
		mixed := func(packet []byte) (out [][]byte) {
			id++
			all := fragments(packet, id, 1400)
			for _, i := range order {
				out = append(out, all[i])
			}
			return out
		}
		esp := espPacket(0xa1, 3500)
		n.sendRaw(n.pc, server, mixed(ipv4(17, pcIP, server, udp))...)
		srv.gets(srv.ike, wanIP, ike)
		n.sendRaw(n.pc, server, mixed(ipv4(50, pcIP, server, esp))...)
		srv.gets(srv.esp, wanIP, esp)
		n.sendRaw(n.wan, wanIP, mixed(ipv4(17, server, wanIP, udp))...)
		pc.gets(pc.ike, server, ike)
		n.sendRaw(n.wan, wanIP, mixed(ipv4(50, server, wanIP, espPacket(0xb1, 3500)))...)
		pc.gets(pc.esp, server, espPacket(0xb1, 3500))
	}
}
