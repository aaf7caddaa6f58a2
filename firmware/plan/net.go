package plan

import (
	"net/netip"
	"slices"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// metric keeps our routes apart from those that others make with metric 0.
const metric = 20

// ethernetMTU is the MTU of a WAN that neither the settings nor the lease set.
const ethernetMTU = 1500

func (d *Desired) links(b Board, s *settings.Settings, f facts.Facts, o Options) {
	portWhy := "board"
	if o.LANPortsDown {
		portWhy = "the LAN moved, its devices have to notice"
	}
	bridge := netstate.Link{Name: Bridge, Kind: netstate.Bridge, Up: true, Why: "board"}
	for i, port := range b.LANPorts {
		if i == 0 {
			// The first port's address, pinned: by itself a bridge takes the
			// lowest of its ports', which changes as they come and go.
			bridge.MAC = f.Links[port].MAC
		}
		d.Net.Links = append(d.Net.Links, netstate.Link{Name: port, Kind: netstate.Physical, Master: Bridge, Up: !o.LANPortsDown, Why: portWhy})
	}
	mtu, why := ethernetMTU, "wan mode"
	switch {
	case s.WAN.MTU != 0:
		mtu, why = s.WAN.MTU, "wan mtu"
	case s.WAN.Mode == settings.WANDHCP && f.WAN != nil && f.WAN.MTU >= 576 && f.WAN.MTU < ethernetMTU:
		mtu, why = f.WAN.MTU, "wan mode dhcp"
	}
	d.Net.Links = append(d.Net.Links, bridge,
		netstate.Link{Name: b.WANPort, Kind: netstate.Physical, Up: true, MTU: mtu, Why: why})
}

func (d *Desired) addrs(s *settings.Settings) {
	why := "lan address"
	if d.LAN.Moved {
		why = "lan address, moved off the WAN's subnet"
	}
	d.Net.Addrs = append(d.Net.Addrs, netstate.Addr{Link: Bridge, Prefix: d.LAN.Address, Why: why})
	if d.WAN.Address.IsValid() {
		why := "wan mode dhcp"
		if s.WAN.Mode == settings.WANStatic {
			why = "wan static address"
		}
		d.Net.Addrs = append(d.Net.Addrs, netstate.Addr{Link: d.WAN.Device, Prefix: d.WAN.Address, Why: why})
	}
}

// subnets routes what IPsec tunnels of devices lead to. It follows links.
func (d *Desired) subnets(s *settings.Settings) {
	wan, _ := d.Net.Link(d.WAN.Device)
	list, problems := passthrough.Subnets(s, d.LAN.Address, d.WAN.Address)
	d.Subnets = list
	for _, p := range problems {
		d.Problems = append(d.Problems, p.Error()+".")
	}
	for _, n := range list {
		d.Net.Routes = append(d.Net.Routes, netstate.Route{Dst: n.Dst, Via: n.Via, Dev: Bridge, Table: netstate.MainTable, Metric: metric,
			MTU: passthrough.TunnelMTU(wan.MTU), Protocol: netstate.RouteProtocol, Why: n.Why})
	}
}

func (d *Desired) routes(s *settings.Settings, f facts.Facts) {
	if !d.WAN.Address.IsValid() {
		return
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	switch {
	case s.WAN.Mode == settings.WANStatic:
		d.route(all, s.WAN.Static.Gateway, "wan static gateway")
	case len(f.WAN.Routes) > 0:
		// RFC 3442: with option 121 the router option is ignored.
		for _, r := range f.WAN.Routes {
			d.route(r.Dst, r.Via, "wan mode dhcp")
		}
	case f.WAN.Gateway.IsValid():
		d.route(all, f.WAN.Gateway, "wan mode dhcp")
	}
}

// route adds a route through the WAN, unless it would take the LAN's addresses
// away from the LAN.
func (d *Desired) route(dst netip.Prefix, via netip.Addr, why string) {
	lan := d.LAN.Address.Masked()
	if dst = dst.Masked(); dst.Bits() >= lan.Bits() && lan.Overlaps(dst) {
		d.Problems = append(d.Problems, "The WAN's DHCP server offers a route to "+dst.String()+
			", which is part of your LAN "+lan.String()+"; the route is not used.")
		return
	}
	if i := slices.IndexFunc(d.Subnets, func(n passthrough.Subnet) bool { return n.Dst.Bits() <= dst.Bits() && n.Dst.Overlaps(dst) }); i >= 0 {
		d.Problems = append(d.Problems, "The WAN's DHCP server offers a route to "+dst.String()+
			", which is part of "+d.Subnets[i].Why+"; the route is not used.")
		return
	}
	r := netstate.Route{Dst: dst, Dev: d.WAN.Device, Table: netstate.MainTable, Metric: metric,
		Protocol: netstate.RouteProtocol, Why: why}
	if via.IsValid() && !via.IsUnspecified() {
		// Some providers' gateway lies outside the leased prefix, often a /32.
		r.Via, r.Onlink = via, !d.WAN.Address.Contains(via)
	}
	if !slices.ContainsFunc(d.Net.Routes, r.Same) {
		d.Net.Routes = append(d.Net.Routes, r)
	}
}
