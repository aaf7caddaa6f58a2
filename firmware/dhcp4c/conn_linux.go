package dhcp4c

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/rawudp"
)

const (
	serverPort = 67
	clientPort = 68
)

// linkConn is the network: a packet socket to hear and to broadcast, and a
// UDP socket to reach the server by the kernel's routes while RENEWING.
type linkConn struct {
	ifname string
	raw    *rawudp.Conn

	mu  sync.Mutex
	udp net.PacketConn
	src netip.Addr // of udp
}

func listen(ifname string) (Conn, error) {
	raw, err := rawudp.Listen(ifname, clientPort)
	if err != nil {
		return nil, err
	}
	return &linkConn{ifname: ifname, raw: raw}, nil
}

func (c *linkConn) Broadcast(payload []byte, src netip.Addr) error {
	all := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), serverPort)
	return c.raw.Send(payload, netip.AddrPortFrom(src, clientPort), all, rawudp.Broadcast[:])
}

// Unicast keeps its socket until Close: with nobody on port 68 the kernel
// would answer the server with an ICMP error.
func (c *linkConn) Unicast(payload []byte, src, dst netip.Addr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.udp != nil && c.src != src {
		c.udp.Close()
		c.udp = nil
	}
	if c.udp == nil {
		lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
			var err error
			if cerr := rc.Control(func(fd uintptr) {
				if err = unix.BindToDevice(int(fd), c.ifname); err == nil {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
				}
			}); cerr != nil {
				return cerr
			}
			return err
		}}
		udp, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(src, clientPort).String())
		if err != nil {
			return fmt.Errorf("DHCP unicast from %s: %w", src, err)
		}
		c.udp, c.src = udp, src
	}
	_, err := c.udp.WriteTo(payload, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, serverPort)))
	return err
}

func (c *linkConn) Receive() ([]byte, net.HardwareAddr, error) {
	p, from, err := c.raw.Receive()
	if err != nil {
		return nil, nil, err
	}
	return slices.Clone(p.Payload), slices.Clone(from), nil
}

func (c *linkConn) Probe(ctx context.Context, addr netip.Addr, wait time.Duration) (net.HardwareAddr, error) {
	return rawudp.Probe(ctx, c.ifname, addr, wait)
}

func (c *linkConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.udp != nil {
		c.udp.Close()
		c.udp = nil
	}
	return c.raw.Close()
}
