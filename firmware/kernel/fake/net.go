package fake

import (
	"fmt"
	"slices"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"golang.org/x/sys/unix"
)

func (k *Kernel) do(c netstate.Change) error {
	switch c.Op {
	case netstate.AddLink:
		if c.Link.Kind != netstate.Bridge {
			return unix.EOPNOTSUPP
		}
		if _, ok := k.state.Link(c.Link.Name); !ok {
			k.state.Links = append(k.state.Links, netstate.Link{
				Name: c.Link.Name, Kind: netstate.Bridge, MTU: 1500, MAC: "06:00:00:00:00:99", Index: 100})
		}
		return nil
	case netstate.AddAddr, netstate.DeleteAddr:
		return k.addr(c)
	case netstate.AddRoute:
		return k.addRoute(c.Route)
	case netstate.DeleteRoute:
		k.state.Routes = slices.DeleteFunc(k.state.Routes, c.Route.Same)
		return nil
	case netstate.AddRule:
		if !slices.ContainsFunc(k.state.Rules, c.Rule.Same) {
			k.state.Rules = append(k.state.Rules, c.Rule)
		}
		return nil
	case netstate.DeleteRule:
		k.state.Rules = slices.DeleteFunc(k.state.Rules, c.Rule.Same)
		return nil
	}
	i := slices.IndexFunc(k.state.Links, func(l netstate.Link) bool { return l.Name == c.Link.Name })
	if i < 0 {
		return unix.ENODEV
	}
	l := &k.state.Links[i]
	switch c.Op {
	case netstate.DeleteLink:
		k.deleteLink(*l)
	case netstate.SetMaster:
		if m, ok := k.state.Link(c.Link.Master); c.Link.Master != "" && (!ok || m.Kind != netstate.Bridge) {
			return unix.ENODEV
		}
		l.Master = c.Link.Master
	case netstate.SetUp:
		l.Up = c.Link.Up
		if !l.Up {
			k.flush(l.Name)
		}
	case netstate.SetMTU:
		l.MTU = c.Link.MTU
	case netstate.SetMAC:
		l.MAC = c.Link.MAC
	default:
		return fmt.Errorf("%s: unknown change", c.Op)
	}
	return nil
}

func (k *Kernel) deleteLink(l netstate.Link) {
	k.flush(l.Name)
	k.state.Addrs = slices.DeleteFunc(k.state.Addrs, func(a netstate.Addr) bool { return a.Link == l.Name })
	k.state.Sysctls = slices.DeleteFunc(k.state.Sysctls, func(c netstate.Sysctl) bool { return c.Link == l.Name })
	k.state.Links = slices.DeleteFunc(k.state.Links, func(o netstate.Link) bool { return o.Name == l.Name })
	for i := range k.state.Links {
		if k.state.Links[i].Master == l.Name {
			k.state.Links[i].Master = ""
		}
	}
}

// flush drops the routes of a device, as the kernel does when it goes down or
// loses its last address.
func (k *Kernel) flush(dev string) {
	k.state.Routes = slices.DeleteFunc(k.state.Routes, func(r netstate.Route) bool { return r.Dev == dev })
}

// addr adds or deletes. The first address of a subnet is its primary one; when
// it goes, those after it go too unless promote_secondaries is set.
func (k *Kernel) addr(c netstate.Change) error {
	a := c.Addr
	if _, ok := k.state.Link(a.Link); !ok {
		return unix.ENODEV
	}
	i := slices.IndexFunc(k.state.Addrs, a.Same)
	switch {
	case c.Op == netstate.AddAddr && i < 0:
		k.state.Addrs = append(k.state.Addrs, a)
		return nil
	case c.Op == netstate.AddAddr || i < 0:
		return nil
	}
	inSubnet := func(o netstate.Addr) bool { return o.Link == a.Link && o.Prefix.Masked() == a.Prefix.Masked() }
	primary := slices.IndexFunc(k.state.Addrs, inSubnet) == i
	promote, _ := k.state.Sysctl("net/ipv4/conf/all/promote_secondaries")
	if primary && promote != "1" {
		k.state.Addrs = slices.DeleteFunc(k.state.Addrs, inSubnet)
	} else {
		k.state.Addrs = slices.Delete(k.state.Addrs, i, i+1)
	}
	if !slices.ContainsFunc(k.state.Addrs, func(o netstate.Addr) bool { return o.Link == a.Link }) {
		k.flush(a.Link)
	}
	return nil
}

func (k *Kernel) addRoute(r netstate.Route) error {
	l, ok := k.state.Link(r.Dev)
	switch {
	case !ok:
		return unix.ENODEV
	case !l.Up:
		return unix.ENETDOWN
	case slices.ContainsFunc(k.state.Routes, r.Same):
		return nil
	case r.Via.IsValid() && !r.Onlink && !k.reachable(r):
		return unix.ENETUNREACH
	}
	k.state.Routes = append(k.state.Routes, r)
	return nil
}

func (k *Kernel) reachable(r netstate.Route) bool {
	return slices.ContainsFunc(k.state.Addrs, func(a netstate.Addr) bool {
		return a.Link == r.Dev && a.Prefix.Contains(r.Via)
	})
}
