package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens addr for UDP and TCP, on the interface iface alone unless it is
// "". The address need not be there yet (IP_FREEBIND), so the server can start
// before the LAN is configured; the interface must. Port 0 takes a free one,
// the same for both.
func Listen(ctx context.Context, iface string, addr netip.AddrPort) (Listeners, error) {
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = prepare(int(fd), iface, addr.Addr()) }); cerr != nil {
			return cerr
		}
		return err
	}}
	var l Listeners
	pc, err := lc.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return l, fmt.Errorf("dns: listen on %v (interface %q): %w", addr, iface, err)
	}
	udp := pc.(*net.UDPConn)
	l.UDP = append(l.UDP, udp)
	port := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	ln, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(addr.Addr(), port).String())
	if err != nil {
		l.Close()
		return Listeners{}, fmt.Errorf("dns: listen on %v (interface %q): %w", addr, iface, err)
	}
	l.TCP = append(l.TCP, ln)
	return l, nil
}

func prepare(fd int, iface string, addr netip.Addr) error {
	if iface != "" {
		if err := unix.BindToDevice(fd, iface); err != nil {
			return fmt.Errorf("bind to interface %q: %w", iface, err)
		}
	}
	if addr.Is4() {
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
}
