package plan

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Overlap tells whether a WAN with this address and gateway collides with the
// LAN: devices and the Internet side could not be told apart.
func Overlap(lan, wan netip.Prefix, gateway netip.Addr) bool {
	if !wan.IsValid() {
		return false
	}
	return lan.Masked().Overlaps(wan.Masked()) || gateway.IsValid() && lan.Masked().Contains(gateway)
}

// EffectiveLAN is the LAN's address in effect. When the WAN's DHCP server
// offers the LAN's own subnet, a LAN that nobody chose by hand moves to
// another one, and stays there (facts.LANMoved). A chosen one stays, hold
// tells that the WAN must not get its address and routes, and problem tells
// the admin what to do.
func EffectiveLAN(s *settings.Settings, f facts.Facts, byHand bool) (lan netip.Prefix, hold bool, problem string) {
	lan = s.LAN.Address
	byHand = chosen(s, byHand)
	if !byHand && f.LANMoved.IsValid() {
		lan = f.LANMoved
	}
	switch {
	case s.WAN.Mode == settings.WANStatic:
		if Overlap(lan, s.WAN.Static.Address, s.WAN.Static.Gateway) {
			lan = s.LAN.Address // which does not overlap, or Validate would have said so
		}
		return lan, false, ""
	case f.WAN == nil || !Overlap(lan, f.WAN.Address, f.WAN.Gateway):
		return lan, false, ""
	}
	free := freeLAN(f.WAN.Address, f.WAN.Gateway)
	if !byHand && free.IsValid() {
		return free, false, ""
	}
	offer := f.WAN.Address.Masked()
	what := "the same as your LAN"
	if offer != lan.Masked() {
		what = "which overlaps your LAN " + lan.Masked().String()
	}
	if !free.IsValid() {
		return lan, true, "WAN offers " + offer.String() + ", which leaves no network for your LAN, so the Internet is off. Fix: ask your provider for another address"
	}
	return lan, true, "WAN offers " + offer.String() + ", " + what +
		", so the Internet is off. Fix: set lan address " + free.String() + "; commit confirm 2m"
}

// chosen tells whether a person chose the LAN's address; an address other than
// the default one is proof.
func chosen(s *settings.Settings, byHand bool) bool {
	return byHand || s.LAN.Address != settings.Default().LAN.Address
}

// freeLAN is the first of 192.168.77.1/24, 192.168.78.1/24 ... 10.77.0.1/24,
// 172.20.77.1/24 that the WAN leaves free.
func freeLAN(wan netip.Prefix, gateway netip.Addr) netip.Prefix {
	var candidates []netip.Prefix
	for n := byte(77); n < 255; n++ {
		candidates = append(candidates, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, n, 1}), 24))
	}
	candidates = append(candidates, netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("172.20.77.1/24"))
	for _, c := range candidates {
		if !Overlap(c, wan, gateway) {
			return c
		}
	}
	return netip.Prefix{}
}

// InEffect is s as it is in effect: with the LAN where it is, if it moved by
// itself. It is s itself when nothing moved; don't write.
func InEffect(s *settings.Settings, f facts.Facts, o Options) *settings.Settings {
	lan, _, _ := EffectiveLAN(s, f, o.LANByHand)
	return moved(s, lan)
}

// moved returns s with its LAN at lan: fixed hosts, port forwards, VPN
// servers and lists of devices keep their host number. It returns s itself when nothing moves.
func moved(s *settings.Settings, lan netip.Prefix) *settings.Settings {
	from := s.LAN.Address
	if lan == from {
		return s
	}
	c := s.Clone()
	c.LAN.Address = lan
	for name, h := range c.LAN.Hosts {
		h.Address = rebase(h.Address, from, lan)
		c.LAN.Hosts[name] = h
	}
	for name, fw := range c.Firewall.Forwards {
		fw.To = rebase(fw.To, from, lan)
		c.Firewall.Forwards[name] = fw
	}
	c.Devices(func(device *string) {
		if a, err := netip.ParseAddr(*device); err == nil {
			*device = rebase(a, from, lan).String()
		} else if p, err := netip.ParsePrefix(*device); err == nil {
			*device = netip.PrefixFrom(rebase(p.Addr(), from, lan), p.Bits()).String()
		}
	})
	return c
}

// rebase gives a its host number in to, if a is in from.
func rebase(a netip.Addr, from, to netip.Prefix) netip.Addr {
	if !from.Contains(a) {
		return a
	}
	b := a.As4()
	host := binary.BigEndian.Uint32(b[:]) &^ (^uint32(0) << (32 - from.Bits()))
	return settings.Nth(to, int(host))
}

// InForce tells whether the kernel still uses lease l: after a restart of the
// network manager the WAN goes on with it, and no connection is cut, until the
// DHCP client has heard of the server again. After a reboot it is not.
func InForce(b Board, have netstate.State, l *facts.WANLease, now time.Time) bool {
	return l != nil && now.Before(l.Expires) &&
		slices.ContainsFunc(have.Addrs, netstate.Addr{Link: b.WANPort, Prefix: l.Address}.Same)
}
