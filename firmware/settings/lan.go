package settings

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// LAN is the bridge br-lan and what is served on it.
type LAN struct {
	// Address is the router's address with the prefix length of the LAN.
	Address netip.Prefix     `json:"address" help:"the router's LAN address and prefix, e.g. 192.168.1.1/24"`
	DHCP    DHCP             `json:"dhcp" help:"addresses for devices"`
	Hosts   map[string]Host  `json:"hosts,omitempty" schema:"format=label,count=1024" help:"named devices, known by their hardware address"`
	Groups  map[string]Group `json:"groups,omitempty" schema:"format=label,count=64" help:"names for several devices, for lists of devices"`
}

// DHCP is the LAN's DHCPv4 server.
type DHCP struct {
	Enabled bool `json:"enabled" schema:"self" help:"on or off"`
	// Start and End are host numbers within the LAN's prefix (RFC 2131 pool), both included.
	Start     int      `json:"start" schema:"min=1,max=16777214" help:"first host number of the pool, 100 = .100 in a /24"`
	End       int      `json:"end" schema:"min=1,max=16777214" help:"last host number of the pool"`
	LeaseTime Duration `json:"lease-time" schema:"min=2m,max=30d" help:"how long a lease lasts, e.g. 12h"`
}

// Host is a named device: its MAC gets this address, its name is in DNS. One
// without an address has that of its lease.
type Host struct {
	MAC     string     `json:"mac" schema:"format=mac" help:"hardware address, e.g. 02:00:00:00:00:01"`
	Address netip.Addr `json:"address,omitzero" help:"its fixed LAN address; none = that of its lease"`
}

// maxPool bounds the DHCP pool: each address costs the server memory.
const maxPool = 4096

func defaultLAN() LAN {
	return LAN{
		Address: netip.MustParsePrefix("192.168.1.1/24"),
		DHCP:    DHCP{Enabled: true, Start: 100, End: 249, LeaseTime: Duration(12 * time.Hour)},
	}
}

func checkLAN(c *check) {
	l := &c.s.LAN
	if !l.Address.IsValid() || !l.Address.Addr().Is4() {
		return // reported as a bad value
	}
	if why := badInterface(l.Address, 8, 30); why != "" {
		c.addf("lan address", l.Address, why, "a device's IPv4 address with a prefix of /8 to /30, e.g. 192.168.1.1/24")
		return
	}
	if l.DHCP.Enabled {
		checkPool(c, l)
	}
	macs, addrs := map[string]string{}, map[netip.Addr]string{l.Address.Addr(): "the router"}
	for _, name := range sortedKeys(l.Hosts) {
		h, path := l.Hosts[name], "lan hosts "+name
		if name == c.s.System.Hostname {
			c.addf(path, name, "this is the router's own name", "a name that is not system hostname")
		}
		mac := strings.ToLower(h.MAC)
		if other, dup := macs[mac]; dup && h.MAC != "" {
			c.addf(path+" mac", h.MAC, "already used by "+other, "one name for each device")
		}
		macs[mac] = name
		if !h.Address.IsValid() || !h.Address.Is4() {
			continue
		}
		if other, dup := addrs[h.Address]; dup {
			c.addf(path+" address", h.Address, "already used by "+other, lanRange(l.Address))
		} else if !usable(h.Address, l.Address) {
			c.addf(path+" address", h.Address, "not a device's address in the LAN", lanRange(l.Address))
		}
		addrs[h.Address] = name
	}
	checkGroups(c)
}

func checkPool(c *check, l *LAN) {
	last := 1<<(32-l.Address.Bits()) - 2
	allowed := fmt.Sprintf("1 to %d in %s", last, l.Address.Masked())
	start, end := l.DHCP.Start, l.DHCP.End
	if start > last {
		c.addf("lan dhcp start", start, "outside the LAN's prefix", allowed)
	}
	switch {
	case end > last:
		c.addf("lan dhcp end", end, "outside the LAN's prefix", allowed)
	case start > last:
	case start > end:
		c.addf("lan dhcp end", end, "before the start of the pool", fmt.Sprintf("%d to %d", start, last))
	case end-start+1 > maxPool:
		c.addf("lan dhcp end", end, "the pool is too large", fmt.Sprintf("at most %d addresses, an end of at most %d", maxPool, start+maxPool-1))
	case start == end && Nth(l.Address, start) == l.Address.Addr():
		c.addf("lan dhcp end", end, "the pool holds only the router's own address", allowed)
	}
}

// Nth is the address with host number n in p's IPv4 prefix: 100 is .100 in a /24.
func Nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(n))
	return netip.AddrFrom4(a)
}

// usable tells whether a is a device's address in the IPv4 prefix p: inside,
// neither its network nor its broadcast address.
func usable(a netip.Addr, p netip.Prefix) bool {
	if !p.Contains(a) {
		return false
	}
	if p.Bits() >= 31 {
		return true
	}
	return a != p.Masked().Addr() && a != Nth(p, 1<<(32-p.Bits())-1)
}

// badInterface tells why p can't be an interface's IPv4 address, "" when it can.
func badInterface(p netip.Prefix, minBits, maxBits int) string {
	a := p.Addr()
	switch {
	case p.Bits() < minBits || p.Bits() > maxBits:
		return "prefix length out of range"
	case badUnicast(a):
		return "not an address a device can have"
	case !usable(a, p):
		return "this is the network or broadcast address of its prefix"
	}
	return ""
}

// badUnicast tells whether a can't be a single device's IPv4 address: 0/8,
// loopback, multicast, reserved and broadcast (RFC 1122 3.2.1.3, RFC 1112).
func badUnicast(a netip.Addr) bool {
	b := a.As4()
	return b[0] == 0 || b[0] == 127 || b[0] >= 224
}

func lanRange(p netip.Prefix) string {
	return fmt.Sprintf("an address in %s, not %s", p.Masked(), p.Addr())
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
