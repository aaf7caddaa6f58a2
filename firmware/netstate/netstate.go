// Package netstate is the vocabulary of the kernel's network state: links,
// addresses, routes, rules and sysctls, as plan wants them and as the kernel has
// them. It is pure.
package netstate

import (
	"net/netip"
)

// RouteProtocol marks the routes that Culvert owns (rtm_protocol, see
// rtnetlink(7)). 67 is 'C'; neither the kernel nor iproute2's rt_protos has it.
const RouteProtocol = 67

// MainTable is the routing table that plain lookups use (RT_TABLE_MAIN).
const MainTable = 254

// Kind tells what a link is.
type Kind string

// Kinds of links. Physical links exist or they don't; they are never made.
const (
	Physical Kind = "physical"
	Bridge   Kind = "bridge"
)

// Link is a network interface.
type Link struct {
	Name   string
	Kind   Kind
	Master string // the bridge it is a port of, "" for none
	Up     bool   // administratively
	MTU    int    // bytes; 0 in a desired state: as it is
	MAC    string // "02:00:..", lower case; "" in a desired state: as it is
	Why    string // the setting it comes from; no part of equality

	// What only an observation has.
	Index   int
	Carrier bool
}

// Addr is an IPv4 address of a link.
type Addr struct {
	Link   string
	Prefix netip.Prefix // the address itself with its prefix length, not masked
	Why    string
}

// Route is an IPv4 unicast route.
type Route struct {
	Dst      netip.Prefix // masked; 0.0.0.0/0 is the default route
	Via      netip.Addr   // next hop; invalid: on link
	Dev      string
	Onlink   bool // Via is taken as a neighbour although no address of Dev covers it
	Table    int  // MainTable when 0
	Metric   int
	MTU      int // bytes of a packet that the way carries; 0: the device's
	Protocol int // RouteProtocol when ours
	Why      string
}

// Rule refuses to route the packets of one IP protocol that come in by a link:
// their sender gets an ICMP admin-prohibited. Observed rules are ours alone
// (RouteProtocol); others are left alone.
type Rule struct {
	Iif      string // need not exist
	Protocol uint8  // IP protocol number
	Why      string
}

// Sysctl is one kernel setting under /proc/sys.
type Sysctl struct {
	Key   string // slashes, as below /proc/sys: "net/ipv4/ip_forward"
	Value string
	// Link is the interface the key belongs to: written after that link is made.
	Link string
	// Optional keys may be missing or read-only on a kernel or in a network
	// namespace; that is no failure.
	Optional bool
	Why      string
}

// State is what the kernel has or should have. Sysctls are in the order in
// which they must be written, everything else as Sort leaves it.
type State struct {
	Links   []Link
	Addrs   []Addr
	Routes  []Route
	Rules   []Rule
	Sysctls []Sysctl
}

// Link returns the link of that name.
func (s *State) Link(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// Sysctl returns the value of key.
func (s *State) Sysctl(key string) (string, bool) {
	for _, c := range s.Sysctls {
		if c.Key == key {
			return c.Value, true
		}
	}
	return "", false
}

// Same tells whether a and b are one address object to the kernel.
func (a Addr) Same(b Addr) bool { return a.Link == b.Link && a.Prefix == b.Prefix }

// Same tells whether r and o are the same route, Why apart. The Onlink flag
// does not count: it tells how a next hop is checked when the route is added.
func (r Route) Same(o Route) bool {
	return r.Dst == o.Dst && r.Via == o.Via && r.Dev == o.Dev && r.table() == o.table() &&
		r.Metric == o.Metric && r.MTU == o.MTU && r.Protocol == o.Protocol
}

// Same tells whether r and o are the same rule, Why apart.
func (r Rule) Same(o Rule) bool { return r.Iif == o.Iif && r.Protocol == o.Protocol }

func (r Route) table() int {
	if r.Table == 0 {
		return MainTable
	}
	return r.Table
}

// Clone returns a copy that shares nothing with s.
func (s State) Clone() State {
	return State{
		Links:   append([]Link(nil), s.Links...),
		Addrs:   append([]Addr(nil), s.Addrs...),
		Routes:  append([]Route(nil), s.Routes...),
		Rules:   append([]Rule(nil), s.Rules...),
		Sysctls: append([]Sysctl(nil), s.Sysctls...),
	}
}
