// Package rtnl reads and writes links, IPv4 addresses, routes and rules through
// rtnetlink.
package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Handle is an rtnetlink socket in the network namespace of the thread that
// made it. It may be used from several goroutines.
type Handle struct {
	mu sync.Mutex // one dump or change at a time: the socket is shared
	h  *netlink.Handle
}

// New opens the socket.
func New() (*Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	return &Handle{h: h}, nil
}

// Close closes the socket.
func (h *Handle) Close() { h.h.Close() }

// dumpTries bounds how often an interrupted dump is repeated. The kernel marks
// a dump that a change raced with; what it returned may lack or repeat entries.
const dumpTries = 20

func dump[T any](what string, f func() (T, error)) (T, error) {
	var v T
	var err error
	for range dumpTries {
		if v, err = f(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return v, fmt.Errorf("list %s: %w", what, err)
	}
	return v, nil
}

// Observe reads all links, all IPv4 addresses but loopback's, the unicast
// routes of every table that the kernel did not make by itself, and our own
// rules. Sysctls are left empty.
func (h *Handle) Observe() (netstate.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var s netstate.State
	links, err := dump("links", h.h.LinkList)
	if err != nil {
		return s, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			s.Links = append(s.Links, link(l, names))
		}
	}
	addrs, err := dump("addresses", func() ([]netlink.Addr, error) { return h.h.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return s, err
	}
	for _, a := range addrs {
		p, ok := prefix(a.IPNet)
		if ok && !p.Addr().IsLoopback() && names[a.LinkIndex] != "" {
			s.Addrs = append(s.Addrs, netstate.Addr{Link: names[a.LinkIndex], Prefix: p})
		}
	}
	routes, err := dump("routes", func() ([]netlink.Route, error) {
		return h.h.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return s, err
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL && r.Type == unix.RTN_UNICAST {
			s.Routes = append(s.Routes, route(r, names))
		}
	}
	if s.Rules, err = dump("rules", rules); err != nil {
		return s, err
	}
	s.Sort()
	return s, nil
}

func link(l netlink.Link, names map[int]string) netstate.Link {
	a := l.Attrs()
	kind := netstate.Physical
	if l.Type() == "bridge" {
		kind = netstate.Bridge
	}
	return netstate.Link{
		Name: a.Name, Kind: kind, Master: names[a.MasterIndex], Up: a.Flags&net.FlagUp != 0,
		MTU: a.MTU, MAC: a.HardwareAddr.String(), Index: a.Index,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
}

func route(r netlink.Route, names map[int]string) netstate.Route {
	dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if p, ok := prefix(r.Dst); ok {
		dst = p
	}
	via, _ := netip.AddrFromSlice(r.Gw)
	return netstate.Route{
		Dst: dst, Via: via.Unmap(), Dev: names[r.LinkIndex], Onlink: r.Flags&unix.RTNH_F_ONLINK != 0,
		Table: r.Table, Metric: r.Priority, MTU: r.MTU, Protocol: int(r.Protocol),
	}
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok && bits == 32
}

// Counters are a link's statistics since it was made.
type Counters struct {
	RxBytes, TxBytes, RxPackets, TxPackets, Errors uint64
}

// Stats returns the counters of every link by name.
func (h *Handle) Stats() (map[string]Counters, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	links, err := dump("links", h.h.LinkList)
	if err != nil {
		return nil, err
	}
	m := make(map[string]Counters, len(links))
	for _, l := range links {
		if s := l.Attrs().Statistics; s != nil {
			m[l.Attrs().Name] = Counters{s.RxBytes, s.TxBytes, s.RxPackets, s.TxPackets, s.RxErrors + s.TxErrors}
		}
	}
	return m, nil
}
