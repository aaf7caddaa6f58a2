package plan

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Conn is an admin's TCP connection to the router, as the router sees it.
type Conn struct{ Local, Remote netip.AddrPort }

// CutsSession tells whether going from old to new may cut c or keep the admin
// from coming back the same way, and where the router answers then, e.g.
// "192.168.77.1" or "192.168.1.1 port 2222".
func CutsSession(old, new *Desired, f facts.Facts, c Conn) (cut bool, address string) {
	remote, local := c.Remote.Addr().Unmap(), c.Local.Addr().Unmap()
	at := func(a netip.Addr) string {
		if new.SSH.Port != 22 {
			return a.String() + " port " + strconv.Itoa(new.SSH.Port)
		}
		return a.String()
	}
	if !old.LAN.Address.Contains(remote) {
		answers := new.LAN.Address.Addr() // the WAN's is closed or not known yet
		if new.SSH.OnWAN && new.WAN.Address.IsValid() {
			answers = new.WAN.Address.Addr()
		}
		return !new.SSH.OnWAN || old.SSH.Port != new.SSH.Port || wanChanged(old, new, remote), at(answers)
	}
	answers := at(new.LAN.Address.Addr())
	switch {
	case old.SSH.Port != new.SSH.Port:
	case old.LAN.Address.Addr() != new.LAN.Address.Addr(), !new.LAN.Address.Contains(remote):
	case local == old.WAN.Address.Addr() && old.WAN.Address != new.WAN.Address:
	case losesLease(old, new, f, remote):
	default:
		return false, answers
	}
	return true, answers
}

// wanChanged tells whether a packet from the Internet may take another way.
func wanChanged(old, new *Desired, remote netip.Addr) bool {
	if old.through(remote) != new.through(remote) {
		return true
	}
	a, b := old.Settings.WAN, new.Settings.WAN
	return a.Mode != b.Mode || a.Mode == settings.WANStatic && a.Static != b.Static || a.MTU != b.MTU || old.WAN != new.WAN
}

// through is the device whose tunnel leads to a, invalid when none does.
func (d *Desired) through(a netip.Addr) (via netip.Addr) {
	bits := -1
	for _, n := range d.Subnets {
		if n.Dst.Contains(a) && n.Dst.Bits() > bits {
			via, bits = n.Via, n.Dst.Bits()
		}
	}
	return via
}

// losesLease tells whether the device at addr is about to lose that address:
// it renews halfway through its lease and is told no.
func losesLease(old, new *Desired, f facts.Facts, addr netip.Addr) bool {
	leased := slices.ContainsFunc(f.Leases, func(l facts.Lease) bool { return l.Addr == addr })
	fixed := func(d *Desired) bool {
		return d.DHCP != nil && slices.ContainsFunc(d.DHCP.Hosts, func(h Host) bool { return h.Addr == addr })
	}
	pooled := func(d *Desired) bool {
		return d.DHCP != nil && addr.Compare(d.DHCP.Start) >= 0 && addr.Compare(d.DHCP.End) <= 0
	}
	return leased && (fixed(old) || pooled(old)) && !fixed(new) && !pooled(new)
}
