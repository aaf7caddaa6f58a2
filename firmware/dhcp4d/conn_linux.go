package dhcp4d

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/rawudp"
)

const (
	serverPort = 67
	clientPort = 68
)

// lanConn hears by a UDP socket that is bound to the interface, and sends by
// a packet socket: the client's address is in no ARP table yet.
type lanConn struct {
	ifi *net.Interface
	udp net.PacketConn
	raw *rawudp.Conn
	buf [2048]byte
}

func listen(ifname string) (Conn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", ifname, err)
	}
	raw, err := rawudp.Listen(ifname, 0)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) {
			if err = unix.BindToDevice(int(fd), ifname); err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	udp, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", serverPort))
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("listen for DHCP on %s: %w", ifname, err)
	}
	return &lanConn{ifi: ifi, udp: udp, raw: raw}, nil
}

func (c *lanConn) Receive() ([]byte, error) {
	n, _, err := c.udp.ReadFrom(c.buf[:])
	return append([]byte(nil), c.buf[:n]...), err
}

func (c *lanConn) Send(payload []byte, src, dst netip.Addr, to net.HardwareAddr) error {
	return c.raw.Send(payload, netip.AddrPortFrom(src, serverPort), netip.AddrPortFrom(dst, clientPort), to)
}

func (c *lanConn) Probe(ctx context.Context, addr netip.Addr, wait time.Duration) (net.HardwareAddr, error) {
	return rawudp.Probe(ctx, c.ifi.Name, addr, wait)
}

// Check notices an interface that was removed and made anew: the sockets
// would stay silent for ever.
func (c *lanConn) Check() error {
	ifi, err := net.InterfaceByName(c.ifi.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", c.ifi.Name, err)
	}
	if ifi.Index != c.ifi.Index {
		return fmt.Errorf("%s is a new interface", c.ifi.Name)
	}
	return nil
}

func (c *lanConn) Close() error {
	c.raw.Close()
	return c.udp.Close()
}
