package rawudp

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
	"golang.org/x/sys/unix"
)

const arpLen = 28

// One probe may be lost to a switch port that has just come up.
const (
	probes   = 2
	probeGap = 100 * time.Millisecond
)

// Probe asks by ARP (RFC 5227 section 2.1.1: sender address zero) whether a
// host on the interface uses addr, and waits for an answer for the given
// time. It returns the Ethernet address of the host that answered, nil when
// none did. RFC 5227 wants three probes and up to seven seconds; this is the
// short form, two probes, because a whole network waits for the answer.
func Probe(ctx context.Context, ifname string, addr netip.Addr, wait time.Duration) (net.HardwareAddr, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("ARP probe for %s: %w", addr, err)
	}
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, fmt.Errorf("ARP probe for %s on %s: %w", addr, ifname, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	request := arpProbe(ifi.HardwareAddr, addr)
	start, sent := time.Now(), 0
	end := start.Add(wait)
	buf := make([]byte, 128)
	for ctx.Err() == nil {
		now := time.Now()
		if !now.Before(end) {
			return nil, nil
		}
		next := start.Add(time.Duration(sent) * probeGap)
		if sent < probes && !now.Before(next) {
			if _, err := c.WriteTo(request, &packet.Addr{HardwareAddr: Broadcast[:]}); err != nil {
				return nil, fmt.Errorf("ARP probe for %s on %s: %w", addr, ifname, err)
			}
			sent++
			continue
		}
		if sent == probes || next.After(end) {
			next = end
		}
		c.SetReadDeadline(next)
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ARP probe for %s on %s: %w", addr, ifname, err)
		}
		if mac := arpConflict(buf[:n], ifi.HardwareAddr, addr); mac != nil {
			return mac, nil
		}
	}
	return nil, ctx.Err()
}

func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	b := make([]byte, arpLen)
	binary.BigEndian.PutUint16(b[0:], 1)             // Ethernet
	binary.BigEndian.PutUint16(b[2:], unix.ETH_P_IP) // IPv4
	b[4], b[5] = 6, 4
	binary.BigEndian.PutUint16(b[6:], 1) // request
	copy(b[8:14], mac)
	a := addr.As4()
	copy(b[24:28], a[:])
	return b
}

// arpConflict returns who uses addr according to one ARP packet, or who
// probes for it at this moment (RFC 5227 section 2.1.1), nil when it says
// nothing of the kind.
func arpConflict(b []byte, own net.HardwareAddr, addr netip.Addr) net.HardwareAddr {
	if len(b) < arpLen || binary.BigEndian.Uint16(b[0:]) != 1 ||
		binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP || b[4] != 6 || b[5] != 4 {
		return nil
	}
	mac := net.HardwareAddr(b[8:14])
	if string(mac) == string(own) {
		return nil
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	probing := binary.BigEndian.Uint16(b[6:]) == 1 && sender.IsUnspecified() && target == addr
	if sender == addr || probing {
		return append(net.HardwareAddr(nil), mac...)
	}
	return nil
}
