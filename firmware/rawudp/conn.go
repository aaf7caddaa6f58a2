package rawudp

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Broadcast is the Ethernet broadcast address.
var Broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Conn is a packet socket on one interface that carries UDP. Any number of
// goroutines may send; one at a time may receive.
type Conn struct {
	c   *packet.Conn
	buf []byte
}

// Listen opens a packet socket on the interface that receives UDP to port.
// Port 0 receives nothing: such a Conn is for sending.
func Listen(ifname string, port uint16) (*Conn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", ifname, err)
	}
	filter := []bpf.Instruction{bpf.RetConstant{Val: 0}}
	if port != 0 {
		filter = udpPort(port)
	}
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", ifname, err)
	}
	// Datagram: the kernel writes and strips the link header, so a VLAN or a
	// bridge works like a plain port. Frames start at the IP header.
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: raw})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", ifname, err)
	}
	return &Conn{c: c, buf: make([]byte, 2048)}, nil
}

// udpPort passes whole IPv4 UDP packets to one port. Without it every packet
// that the router forwards would be copied to us.
func udpPort(port uint16) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 3},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 0xffff},
	}
}

// Receive waits for the next well-formed packet and returns it with the
// Ethernet address it came from. The payload is valid until the next call.
// It ends with an error when the Conn is closed or the interface goes away.
func (c *Conn) Receive() (Packet, net.HardwareAddr, error) {
	for {
		n, from, err := c.c.ReadFrom(c.buf)
		if err != nil {
			return Packet{}, nil, err
		}
		p, err := Parse(c.buf[:n])
		if err != nil {
			continue
		}
		var mac net.HardwareAddr
		if a, ok := from.(*packet.Addr); ok && a != nil {
			mac = a.HardwareAddr
		}
		return p, mac, nil
	}
}

// Send sends one UDP packet to the Ethernet address.
func (c *Conn) Send(payload []byte, src, dst netip.AddrPort, to net.HardwareAddr) error {
	_, err := c.c.WriteTo(Marshal(src, dst, payload), &packet.Addr{HardwareAddr: to})
	return err
}

// HardwareAddr is the interface's own address.
func (c *Conn) HardwareAddr() net.HardwareAddr {
	if a, ok := c.c.LocalAddr().(*packet.Addr); ok {
		return a.HardwareAddr
	}
	return nil
}

// Close ends a Receive under way.
func (c *Conn) Close() error { return c.c.Close() }
