package dhcp4d

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// leastMessage is the DHCP message that every client takes: an IP packet of
// 576 bytes (RFC 2131 2) without the headers of IP and UDP. mostMessage fits
// into one Ethernet frame.
const (
	headers      = 20 + 8
	leastMessage = 576 - headers
	mostMessage  = 1500 - headers
)

// routes adds option 121 (RFC 3442) to an answer for the device at addr, when
// it asked for it and it fits. Who takes it ignores the router option, so the
// default route stands there too. A gateway gets no route by way of itself.
func (s *Server) routes(req, d *dhcpv4.DHCPv4, addr netip.Addr) {
	if !req.ParameterRequestList().Has(dhcpv4.OptionClasslessStaticRoute) {
		return
	}
	var list []*dhcpv4.Route
	for _, r := range s.t.cfg.Routes {
		if r.Via != addr {
			list = append(list, &dhcpv4.Route{Dest: &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), 32)}, Router: r.Via.AsSlice()})
		}
	}
	if len(list) == 0 {
		return
	}
	list = append(list, &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: s.t.cfg.Router.Addr().AsSlice()})
	limit := leastMessage
	if n, err := req.MaxMessageSize(); err == nil && int(n)-headers > limit {
		limit = min(int(n)-headers, mostMessage)
	}
	option := dhcpv4.OptClasslessStaticRoute(list...)
	d.UpdateOption(option)
	if len(option.Value.ToBytes()) > 255 || len(d.ToBytes()) > limit {
		d.Options.Del(option.Code)
		s.o.Log.Warn("DHCP: the routes do not fit into what a client takes; it sends to them by way of the router",
			"address", addr, "mac", d.ClientHWAddr.String(), "bytes", limit)
	}
}
