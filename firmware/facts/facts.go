// Package facts holds what the router learnt: leases, links, the clock.
// Clients emit facts, plan reads them, nothing here is configured.
package facts

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Facts is everything learnt at one moment; a value, never shared for writing.
type Facts struct {
	WAN    *WANLease // nil while the WAN has no DHCP lease
	Links  map[string]Link
	Leases []Lease // LAN leases, ordered by address
	Synced bool    // the clock was set by NTP since boot
	// LANMoved is the prefix the LAN moved to by itself because the WAN
	// offered the LAN's own subnet; invalid when it did not move.
	LANMoved netip.Prefix
	// Shared are the IPsec servers that several devices talk to, ordered by
	// address.
	Shared []Association
	// Names are the servers that settings name, with what DNS says of them,
	// ordered by name.
	Names []Name
}

// Equal tells whether f and o say the same. A WAN lease is the same when it is
// the very one: each new one is a value of its own.
func (f Facts) Equal(o Facts) bool {
	return f.WAN == o.WAN && f.Synced == o.Synced && f.LANMoved == o.LANMoved &&
		maps.Equal(f.Links, o.Links) && slices.Equal(f.Leases, o.Leases) &&
		slices.EqualFunc(f.Shared, o.Shared, func(a, b Association) bool {
			return a.Server == b.Server && slices.Equal(a.Devices, b.Devices)
		}) &&
		slices.EqualFunc(f.Names, o.Names, func(a, b Name) bool { return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) })
}

// Name is a DNS name with its addresses, in order; none while nobody told.
type Name struct {
	Name  string
	Addrs []netip.Addr
}

// Association is an IPsec server with the devices that talk to it, in order.
type Association struct {
	Server  netip.Addr
	Devices []netip.Addr
}

// WANLease is what the WAN's DHCP server gave.
type WANLease struct {
	Address  netip.Prefix
	Gateway  netip.Addr
	DNS      []netip.Addr
	Routes   []Route // option 121, RFC 3442; replaces Gateway when not empty
	Domain   string
	MTU      int // 0 when not offered
	Server   netip.Addr
	Acquired time.Time
	Expires  time.Time
}

// Route is a classless static route, RFC 3442.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Link is the state of a network interface.
type Link struct {
	Index   int
	Up      bool // administratively
	Carrier bool
	MAC     string
	MTU     int
}

// Lease is a LAN device that got its address from the router.
type Lease struct {
	MAC     string
	Addr    netip.Addr
	Name    string // DNS label, may be empty
	Expires time.Time
	Static  bool
}
