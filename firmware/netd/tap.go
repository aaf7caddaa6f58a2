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

// tapBytes is how much of a packet is copied: headers, and an ICMP error's quote.
const tapBytes = 200

// tap hands over the beginnings of all IPv4 packets to and from an address that
// pass an interface, and ICMP errors, until ctx is done. It sees what the
// firewall refuses and what the flowtable carries. take's packet is valid until
// it returns.
func tap(ctx context.Context, ifname string, addr netip.Addr, take func(b []byte)) error {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return fmt.Errorf("watch %s: %w", ifname, err)
	}
	filter, err := bpf.Assemble(tapFilter(addr))
	if err != nil {
		return fmt.Errorf("watch %s: %w", ifname, err)
	}
	// Of all protocols: a socket of one would not see what goes out.
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		return fmt.Errorf("watch %s: %w", ifname, err)
	}
	defer c.Close()
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
			return fmt.Errorf("watch %s: %w", ifname, err)
		}
		take(buf[:n])
	}
}

// tapFilter passes IPv4 from or to addr, and ICMP's destination unreachable.
func tapFilter(addr netip.Addr) []bpf.Instruction {
	a := addr.As4()
	want := binary.BigEndian.Uint32(a[:])
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 9},
		bpf.LoadAbsolute{Off: 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 16, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 3},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 3, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: tapBytes},
	}
}
