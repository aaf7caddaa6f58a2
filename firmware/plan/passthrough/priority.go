package passthrough

import (
	"net/netip"
	"slices"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Some servers take L2TP from port 1701 alone, and IKE from port 500. Outside
// only one device can have each, with one server; IKE needs none where copies
// are on, see IPsecTable.

// Servers is the set of servers that a device has an association with.
const Servers = servers

// Priority are the addresses of the devices that come before others, in order.
func Priority(s *settings.Settings, f facts.Facts) (out []netip.Addr) {
	for _, w := range s.Passthrough.Priority {
		if h, ok := s.LAN.Hosts[w]; ok {
			for _, x := range hostsOf(s, f, w, h) {
				out = append(out, x.addr)
			}
		} else if a, ok := s.Device(w); ok {
			out = append(out, a)
		}
	}
	return out
}

// Keeper is the device that keeps its source port: the first of Priority that
// has a lease, or of all when none has. It is invalid when nobody is named.
func Keeper(s *settings.Settings, f facts.Facts) netip.Addr {
	all := Priority(s, f)
	for _, a := range all {
		if slices.ContainsFunc(f.Leases, func(l facts.Lease) bool { return l.Addr == a }) {
			return a
		}
	}
	if len(all) == 0 {
		return netip.Addr{}
	}
	return all[0]
}

// First port that others get instead of 1701; the last is 65535.
const firstOtherL2TP = l2tpPort + 1

// keepPort leaves port 1701 of the WAN's address to the keeper.
func (n Network) keepPort(on bool) []rs.Rule {
	if !on || !n.Keeper.Is4() || !n.WAN.Is4() {
		return nil
	}
	return []rs.Rule{rs.R("passthrough priority", rs.IPv4{}, rs.Oif{Name: n.WANDevice}, rs.Source{Prefix: n.LAN.Masked()},
		rs.Source{Prefix: netip.PrefixFrom(n.Keeper, 32), Not: true}, rs.Sport{Protocol: rs.UDP, Port: l2tpPort},
		rs.SNAT{Addr: n.WAN, First: firstOtherL2TP, Last: 65535})}
}

// keepNative leaves servers of native IPsec to the keeper where each is one
// device's: IKE of others goes through conntrack from another port.
func (n Network) keepNative() []rs.Rule {
	if !n.alone || !n.Keeper.Is4() {
		return nil
	}
	return []rs.Rule{rs.R("passthrough priority", rs.Source{Prefix: netip.PrefixFrom(n.Keeper, 32), Not: true}, accept)}
}
