// Package rawudp sends and receives UDP over packet sockets, and probes for
// addresses by ARP. DHCP needs it: a client has no address to bind a UDP
// socket to, and a server has to reach one that cannot answer ARP yet
// (RFC 2131 section 4.1). What it does is independent of the firewall:
// packet sockets see frames before netfilter and send behind it.
package rawudp

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

const (
	ipHeader  = 20
	udpHeader = 8
	protoUDP  = 17
)

// ErrMalformed is returned for anything that is not a whole, unfragmented
// IPv4 UDP packet.
var ErrMalformed = errors.New("rawudp: not a whole IPv4 UDP packet")

// Packet is one received UDP packet. Payload aliases the read buffer.
type Packet struct {
	Src, Dst netip.AddrPort
	Payload  []byte
}

// Marshal builds an IPv4 packet with a UDP header around payload. Both
// addresses have to be IPv4.
func Marshal(src, dst netip.AddrPort, payload []byte) []byte {
	total := ipHeader + udpHeader + len(payload)
	b := make([]byte, total)
	s, d := src.Addr().As4(), dst.Addr().As4()

	b[0] = 0x45
	b[1] = 0xc0 // CS6: DHCP keeps the network itself going
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	b[6] = 0x40 // don't fragment
	b[8] = 64
	b[9] = protoUDP
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b[:ipHeader])))

	u := b[ipHeader:]
	binary.BigEndian.PutUint16(u[0:], src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(udpHeader+len(payload)))
	copy(u[udpHeader:], payload)
	// The pseudo header of RFC 768: addresses, protocol and UDP length.
	pseudo := sum(sum(protoUDP+uint32(len(u)), b[12:20]), u)
	csum := ^fold(pseudo)
	if csum == 0 {
		csum = 0xffff
	}
	binary.BigEndian.PutUint16(u[6:], csum)
	return b
}

// Parse reads an IPv4 packet. It checks the IP header's sum and every
// length, but not the UDP checksum: frames from a virtual machine or a veth
// on this host reach a packet socket before that sum is filled in.
func Parse(b []byte) (Packet, error) {
	var p Packet
	if len(b) < ipHeader || b[0]>>4 != 4 {
		return p, ErrMalformed
	}
	ihl := int(b[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case ihl < ipHeader, total < ihl+udpHeader, len(b) < total:
		return p, ErrMalformed
	case b[9] != protoUDP:
		return p, ErrMalformed
	case binary.BigEndian.Uint16(b[6:])&0x3fff != 0: // more fragments, or an offset
		return p, ErrMalformed
	case fold(sum(0, b[:ihl])) != 0xffff:
		return p, ErrMalformed
	}
	u := b[ihl:total]
	n := int(binary.BigEndian.Uint16(u[4:]))
	if n < udpHeader || n > len(u) {
		return p, ErrMalformed
	}
	p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), binary.BigEndian.Uint16(u[0:]))
	p.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), binary.BigEndian.Uint16(u[2:]))
	p.Payload = u[udpHeader:n]
	return p, nil
}

// sum adds b as big-endian 16 bit words to acc (RFC 1071).
func sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}
