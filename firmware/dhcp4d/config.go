package dhcp4d

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Config is what the server serves; a value that can be exchanged while it runs.
type Config struct {
	Interface string
	// Router is the router's own address with the prefix length of the LAN:
	// gateway and server identifier of all leases.
	Router netip.Prefix
	// PoolStart and PoolEnd are the first and the last address given out.
	PoolStart, PoolEnd netip.Addr
	LeaseTime          time.Duration // at least 2 minutes
	// ShortLease is what clients get for now instead of LeaseTime, at least 2
	// minutes; 0 means LeaseTime.
	ShortLease time.Duration
	DNS        []netip.Addr // Router's address when empty
	Domain     string       // option 15; not sent when empty
	Static     []Static
	Routes     []Route // that devices shall have beside the default one
	// Reserved are names that no client may have, like the router's own.
	Reserved []string
}

// Static is a device that always gets the same address, or the same name.
type Static struct {
	MAC  net.HardwareAddr
	Addr netip.Addr // in the LAN, inside or outside the pool; invalid: any of the pool
	Name string     // DNS label; the client's own name when empty
}

// Route is a way of its own to a part of the world: option 121, RFC 3442.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // a device of the LAN
}

// MinLeaseTime keeps clients from asking all the time.
const MinLeaseTime = 2 * time.Minute

// Validate reports the first thing that cannot work.
func (c *Config) Validate() error {
	switch {
	case c.Interface == "":
		return fmt.Errorf("DHCP server: no interface")
	case !c.Router.Addr().Is4() || c.Router.Bits() < 8 || c.Router.Bits() > 30:
		return fmt.Errorf("DHCP server: router address %s: need an IPv4 address with a prefix from /8 to /30", c.Router)
	case c.LeaseTime < MinLeaseTime:
		return fmt.Errorf("DHCP server: lease time %s: must be at least %s", c.LeaseTime, MinLeaseTime)
	}
	if c.ShortLease != 0 && c.ShortLease < MinLeaseTime {
		return fmt.Errorf("DHCP server: short lease time %s: must be at least %s", c.ShortLease, MinLeaseTime)
	}
	for _, a := range []netip.Addr{c.PoolStart, c.PoolEnd} {
		if !c.isHost(a) {
			return fmt.Errorf("DHCP server: pool %s to %s: %s is no host of %s", c.PoolStart, c.PoolEnd, a, c.Router.Masked())
		}
	}
	if c.PoolEnd.Less(c.PoolStart) {
		return fmt.Errorf("DHCP server: pool %s to %s: ends before it starts", c.PoolStart, c.PoolEnd)
	}
	for _, r := range c.Routes {
		if !r.Dst.IsValid() || !r.Dst.Addr().Is4() || r.Dst.Bits() == 0 || r.Dst != r.Dst.Masked() || r.Dst.Overlaps(c.Router.Masked()) || !c.isHost(r.Via) {
			return fmt.Errorf("DHCP server: route to %s via %s: need an IPv4 prefix outside of the LAN and a host of %s", r.Dst, r.Via, c.Router.Masked())
		}
	}
	macs, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for _, s := range c.Static {
		switch {
		case len(s.MAC) != 6:
			return fmt.Errorf("DHCP server: fixed address %s: %q is no Ethernet address", s.Addr, s.MAC)
		case s.Addr.IsValid() && (!c.isHost(s.Addr) || s.Addr == c.Router.Addr()):
			return fmt.Errorf("DHCP server: fixed address %s of %s: must be a free host of %s", s.Addr, s.MAC, c.Router.Masked())
		case macs[s.MAC.String()]:
			return fmt.Errorf("DHCP server: %s is two devices", s.MAC)
		case s.Addr.IsValid() && addrs[s.Addr]:
			return fmt.Errorf("DHCP server: the fixed address %s belongs to two devices", s.Addr)
		}
		macs[s.MAC.String()], addrs[s.Addr] = true, true
	}
	return nil
}

// lease is for how long an address is given out now. What is stored still
// counts LeaseTime more (see Lease.Expires), so that short leases, which are
// renewed every minute, cost no writes.
func (c *Config) lease() time.Duration {
	if c.ShortLease != 0 {
		return c.ShortLease
	}
	return c.LeaseTime
}

// isHost reports whether a is an address of the LAN and not its first or last.
func (c *Config) isHost(a netip.Addr) bool {
	return c.Router.Contains(a) && a != c.Router.Masked().Addr() && a != broadcastOf(c.Router)
}

func (c *Config) inPool(a netip.Addr) bool {
	return a.Is4() && !a.Less(c.PoolStart) && !c.PoolEnd.Less(a) && a != c.Router.Addr()
}

func (c *Config) dns() []netip.Addr {
	if len(c.DNS) == 0 {
		return []netip.Addr{c.Router.Addr()}
	}
	return c.DNS
}

func num(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func addrOf(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// hostMask has the bits set that number the hosts of p.
func hostMask(p netip.Prefix) uint32 { return uint32(uint64(1)<<(32-p.Bits()) - 1) }

func broadcastOf(p netip.Prefix) netip.Addr { return addrOf(num(p.Addr()) | hostMask(p)) }
