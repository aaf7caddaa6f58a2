package settings

import (
	"errors"
	"net/netip"
)

// Subnet is one that a device of the LAN has a tunnel to. The router leads the
// other devices to it by way of that device.
type Subnet struct {
	Via string `json:"via" schema:"format=device" help:"the device that has the tunnel"`
}

// Bits of a subnet: shorter ones are most of the Internet.
const minSubnetBits = 8

// TunnelSubnet is one of PassIPsec's by its prefix.
type TunnelSubnet struct {
	Prefix netip.Prefix
	Via    string // an address, or a name of lan hosts
}

// Path is where it is set.
func (t TunnelSubnet) Path() string { return "passthrough ipsec subnet " + t.Prefix.String() }

// TunnelSubnets lists the subnets behind IPsec devices, ordered by what is
// typed. What is no prefix is left out.
func (p *Passthrough) TunnelSubnets() (out []TunnelSubnet) {
	for _, key := range sortedKeys(p.IPsec.Subnets) {
		if x, err := netip.ParsePrefix(key); err == nil {
			out = append(out, TunnelSubnet{x, p.IPsec.Subnets[key].Via})
		}
	}
	return out
}

// checkSubnet tells what is wrong with a subnet by itself.
func checkSubnet(s string) error {
	if err := checkPrefix(s); err != nil {
		return err
	}
	p := netip.MustParsePrefix(s)
	switch {
	case p.Bits() == 0:
		return errors.New("this is the default route")
	case p.Bits() < minSubnetBits:
		return errors.New("too much of the Internet")
	case badUnicast(p.Addr()):
		return errors.New("not addresses that devices can have")
	}
	return nil
}

// checkSubnets finds subnets that other routes have, and devices that cannot
// lead to them.
func checkSubnets(c *check) {
	lan, wan := c.s.LAN.Address, c.s.WAN.Static
	all := c.s.Passthrough.TunnelSubnets()
	for _, t := range all {
		p, path := t.Prefix, t.Path()
		if checkSubnet(p.String()) != nil {
			continue // reported as a bad value
		}
		switch {
		case lan.IsValid() && lan.Addr().Is4() && p.Overlaps(lan.Masked()):
			c.addf(path, p, "overlaps the LAN "+lan.Masked().String(), "the subnet at the other end of the tunnel; the two LANs must differ")
		case c.s.WAN.Mode == WANStatic && wan.Address.IsValid() && wan.Address.Addr().Is4() && p.Overlaps(wan.Address.Masked()):
			c.addf(path, p, "overlaps the WAN "+wan.Address.Masked().String(), "the subnet at the other end of the tunnel")
		}
		for _, o := range all {
			if o.Prefix != p && o.Via == t.Via && o.Prefix.Bits() < p.Bits() && o.Prefix.Overlaps(p) {
				c.addf(path, p, "is a part of "+o.Prefix.String()+" via the same device", "one of them")
			}
		}
		c.device(path+" via", t.Via)
		c.mayUse("ipsec", path+" via", t.Via)
	}
}
