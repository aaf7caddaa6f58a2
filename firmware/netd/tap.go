package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tapBytes is how much of a packet is copied: IKE's first messages as a whole.
const tapBytes = 1600

// openTap gives a socket for the beginnings of IPv4 packets that pass an
// interface, as a filter passes them. It sees what the firewall refuses and what
// the flowtable carries.
func openTap(ifname string, filter []bpf.Instruction) (*packet.Conn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", ifname, err)
	}
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", ifname, err)
	}
	// Of all protocols: a socket of one would not see what goes out.
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ALL, &packet.Config{Filter: raw})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", ifname, err)
	}
	return c, nil
}

// readTap hands packets over until ctx is done. take's packet is valid until it
// returns.
func readTap(ctx context.Context, c *packet.Conn, take func(b []byte)) error {
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, tapBytes)
	for {
		n, _, err := c.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ENETDOWN): // the port was down for a moment
			continue
		case err != nil:
			return fmt.Errorf("watch packets: %w", err)
		}
		take(buf[:n])
	}
}

// Offsets in the IPv4 header.
const (
	ipProtocol    = 9
	ipSource      = 12
	ipDestination = 16
)

// condition loads a value and compares it.
type condition struct {
	load  []bpf.Instruction
	equal uint32
}

func addressIs(offset uint32, a netip.Addr) condition {
	b := a.As4()
	return condition{[]bpf.Instruction{bpf.LoadAbsolute{Off: offset, Size: 4}}, binary.BigEndian.Uint32(b[:])}
}

func protocolIs(protocol uint32) condition {
	return condition{[]bpf.Instruction{bpf.LoadAbsolute{Off: ipProtocol, Size: 1}}, protocol}
}

// behind is a value behind the IP header.
func behind(offset uint32, size int, equal uint32) condition {
	return condition{[]bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: offset, Size: size}}, equal}
}

// when ends a filter with a verdict if all conditions hold, and else goes on.
func when(verdict uint32, all ...condition) []bpf.Instruction {
	out := []bpf.Instruction{bpf.RetConstant{Val: verdict}}
	for i := len(all) - 1; i >= 0; i-- {
		jump := bpf.JumpIf{Cond: bpf.JumpEqual, Val: all[i].equal, SkipFalse: uint8(len(out))}
		out = append(append(append([]bpf.Instruction{}, all[i].load...), jump), out...)
	}
	return out
}

// ipv4 begins a filter; what is no IPv4 does not pass.
func ipv4() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// tapFilter passes IPv4 from or to addr, and ICMP's destination unreachable.
func tapFilter(addr netip.Addr) []bpf.Instruction {
	f := append(ipv4(), when(tapBytes, addressIs(ipSource, addr))...)
	f = append(f, when(tapBytes, addressIs(ipDestination, addr))...)
	f = append(f, when(tapBytes, protocolIs(unix.IPPROTO_ICMP), behind(0, 1, 3))...)
	return append(f, bpf.RetConstant{Val: 0})
}

// mostAside bounds a filter's length.
const mostAside = 50

// wanFilter also passes what comes to the WAN's address from a VPN server's
// port, or without ports, of whatever address: servers do not always answer from
// the one that was called. The servers in aside talk to others.
func wanFilter(addr, wan netip.Addr, aside []netip.Addr) []bpf.Instruction {
	f := tapFilter(addr)
	f = f[:len(f)-1]
	for _, a := range aside[:min(len(aside), mostAside)] {
		f = append(f, when(0, addressIs(ipSource, a))...)
	}
	to := addressIs(ipDestination, wan)
	for _, p := range []uint32{unix.IPPROTO_GRE, unix.IPPROTO_ESP} {
		f = append(f, when(tapBytes, to, protocolIs(p))...)
	}
	for _, p := range []struct{ protocol, port uint32 }{
		{unix.IPPROTO_UDP, 500}, {unix.IPPROTO_UDP, 4500}, {unix.IPPROTO_UDP, 1701}, {unix.IPPROTO_UDP, 1194}, {unix.IPPROTO_UDP, 51820},
		{unix.IPPROTO_TCP, 1723}, {unix.IPPROTO_TCP, 1194},
	} {
		f = append(f, when(tapBytes, to, protocolIs(p.protocol), behind(0, 2, p.port))...)
	}
	return append(f, bpf.RetConstant{Val: 0})
}
