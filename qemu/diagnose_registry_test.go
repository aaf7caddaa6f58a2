package qemu

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"time"

	"github.com/culvert-fw/culvert/qemu/lab"
)

// windowsVendors are the vendor IDs of a Windows that begins IKEv1, as [MS-IKEE]
// has them: MS NT5 ISAKMPOAKLEY version 9, NAT-T of RFC 3947, fragmentation,
// Negotiation Discovery Capable, Vid-Initial-Contact.
var windowsVendors = []string{"1e2b516905991c7d7c96fcbfb587e46100000009", "4a131c81070358455c5728f20e95452f", "4048b7d56ebce88525e7de7f00d6c2d3",
	"fb1de3cdf341b7ea16b7e5be0855f120", "26244d38eddb61b3172a36e3d0cfb819"}

// windowsCalls sends what Windows sends to an IPsec server behind NAT, from the
// lab's lan or wan: Main Mode up to the NAT detection (RFC 3947, 3.2), and then
// nothing more. No Windows runs in the lab; the server is libreswan.
func windowsCalls(l *lab.Lab, side, from, to string) {
	if side == "lan" {
		l.Route(to, "192.168.1.1", "lan")
	}
	c, err := l.ListenUDP(side, from+":500")
	l.Check(err)
	l.Cleanup(func() { c.Close() }) // it stays open: Windows does not say that nobody listens
	for range 3 {
		windowsCall(l, c, from, to)
		time.Sleep(2 * time.Second)
	}
}

func windowsCall(l *lab.Lab, c net.PacketConn, from, to string) {
	server := &net.UDPAddr{IP: net.ParseIP(to), Port: 500}
	initiator := make([]byte, 8)
	rand.Read(initiator)
	payloads := []ikePayload{{1, proposal()}}
	for _, v := range windowsVendors {
		b, _ := hex.DecodeString(v)
		payloads = append(payloads, ikePayload{13, b})
	}
	answer := ask(l, c, server, initiator, mainMode(append(bytes.Clone(initiator), make([]byte, 8)...), payloads))
	spis := answer[:16]
	key := make([]byte, 256) // of group 14
	rand.Read(key)
	key[0] = 1
	nonce := make([]byte, 32)
	rand.Read(nonce)
	ask(l, c, server, initiator, mainMode(spis, []ikePayload{{4, key}, {10, nonce}, {20, natHash(spis, to)}, {20, natHash(spis, from)}}))
}

// ikePayload is one of RFC 2408 3.1.
type ikePayload struct {
	kind byte
	body []byte
}

// proposal is a SA payload (RFC 2408 3.4) with the transform AES-256, SHA-1,
// group 14, preshared key.
func proposal() []byte {
	var attributes []byte
	for _, a := range [][2]uint16{{1, 7}, {14, 256}, {2, 2}, {4, 14}, {3, 1}, {11, 1}, {12, 28800}} {
		attributes = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(attributes, 0x8000|a[0]), a[1])
	}
	n := byte(8 + len(attributes))
	transform := append([]byte{0, 0, 0, n, 1, 1, 0, 0}, attributes...)
	return append([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, n + 8, 1, 1, 0, 1}, transform...)
}

func natHash(spis []byte, addr string) []byte {
	h := sha1.Sum(binary.BigEndian.AppendUint16(append(bytes.Clone(spis), netip.MustParseAddr(addr).AsSlice()...), 500))
	return h[:]
}

// mainMode is a message in the clear.
func mainMode(spis []byte, payloads []ikePayload) []byte {
	b := append(bytes.Clone(spis), payloads[0].kind, 0x10, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for i, p := range payloads {
		next := byte(0)
		if i+1 < len(payloads) {
			next = payloads[i+1].kind
		}
		b = append(binary.BigEndian.AppendUint16(append(b, next, 0), uint16(4+len(p.body))), p.body...)
	}
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
	return b
}

// ask sends a message until it is answered; what comes of older calls is none.
func ask(l *lab.Lab, c net.PacketConn, to net.Addr, initiator, message []byte) []byte {
	var err error
	for range 5 {
		_, err = c.WriteTo(message, to)
		l.Check(err)
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		b, n := make([]byte, 2000), 0
		for err == nil {
			if n, _, err = c.ReadFrom(b); err == nil && n >= 28 && bytes.HasPrefix(b, initiator) {
				return b[:n]
			}
		}
	}
	l.Check(err)
	return nil
}
