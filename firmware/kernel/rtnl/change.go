package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Do makes one change. What is there already, or gone already, is no error:
// somebody else was faster, and the next observation tells.
func (h *Handle) Do(c netstate.Change) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.do(c); err != nil {
		return fmt.Errorf("%s: %w", c.Text(), err)
	}
	return nil
}

func (h *Handle) do(c netstate.Change) error {
	switch c.Op {
	case netstate.AddLink:
		return h.addLink(c.Link)
	case netstate.AddAddr, netstate.DeleteAddr:
		return h.addr(c.Op, c.Addr)
	case netstate.AddRoute, netstate.DeleteRoute:
		return h.route(c.Op, c.Route)
	case netstate.AddRule, netstate.DeleteRule:
		return rule(c.Op, c.Rule)
	}
	l, err := h.byName(c.Link.Name)
	if err != nil {
		if c.Op == netstate.DeleteLink && errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return err
	}
	switch c.Op {
	case netstate.DeleteLink:
		return h.h.LinkDel(l)
	case netstate.SetMaster:
		if c.Link.Master == "" {
			return h.h.LinkSetNoMaster(l)
		}
		m, err := h.byName(c.Link.Master)
		if err != nil {
			return err
		}
		return h.h.LinkSetMasterByIndex(l, m.Attrs().Index)
	case netstate.SetUp:
		if c.Link.Up {
			return h.h.LinkSetUp(l)
		}
		return h.h.LinkSetDown(l)
	case netstate.SetMTU:
		return h.h.LinkSetMTU(l, c.Link.MTU)
	case netstate.SetMAC:
		mac, err := net.ParseMAC(c.Link.MAC)
		if err != nil {
			return err
		}
		return h.h.LinkSetHardwareAddr(l, mac)
	}
	return fmt.Errorf("not a change for rtnetlink")
}

// byName finds a link. Asking for one name is no dump, so nothing interrupts it.
func (h *Handle) byName(name string) (netlink.Link, error) { return h.h.LinkByName(name) }

func (h *Handle) addLink(l netstate.Link) error {
	if l.Kind != netstate.Bridge {
		return fmt.Errorf("no such interface, and only bridges can be made")
	}
	attrs := netlink.NewLinkAttrs() // a literal would set TxQLen 0
	attrs.Name = l.Name
	return ignore(h.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}), unix.EEXIST)
}

func (h *Handle) addr(op netstate.Op, a netstate.Addr) error {
	l, err := h.byName(a.Link)
	if err != nil {
		return err
	}
	na := &netlink.Addr{IPNet: ipnet(a.Prefix)}
	if op == netstate.DeleteAddr {
		return ignore(h.h.AddrDel(l, na), unix.EADDRNOTAVAIL)
	}
	return ignore(h.h.AddrAdd(l, na), unix.EEXIST)
}

func (h *Handle) route(op netstate.Op, r netstate.Route) error {
	l, err := h.byName(r.Dev)
	if err != nil {
		return err
	}
	nr := &netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: ipnet(r.Dst), Table: r.Table, Priority: r.Metric, MTU: r.MTU,
		Protocol: netlink.RouteProtocol(r.Protocol), Scope: netlink.SCOPE_LINK,
	}
	if r.Table == 0 {
		nr.Table = netstate.MainTable
	}
	if r.Via.IsValid() {
		nr.Gw, nr.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
		if r.Onlink {
			nr.Flags = int(netlink.FLAG_ONLINK)
		}
	}
	if op == netstate.DeleteRoute {
		return ignore(h.h.RouteDel(nr), unix.ESRCH)
	}
	// Append, not add: the new route may differ from the old one in its next
	// hop alone, and both must stand until the old one is deleted.
	return ignore(h.h.RouteAppend(nr), unix.EEXIST)
}

func ignore(err error, no unix.Errno) error {
	if errors.Is(err, no) {
		return nil
	}
	return err
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
