package settings

import "net/netip"

// DNS is the forwarder on the LAN.
type DNS struct {
	Upstreams []netip.Addr `json:"upstreams,omitempty" schema:"count=8" help:"resolvers to ask; empty = those the WAN's DHCP offers"`
	CacheSize int          `json:"cache-size" schema:"min=0,max=10000" help:"answers kept, 0 to 10000"`
}

func defaultDNS() DNS { return DNS{CacheSize: 1000} }

func checkDNS(c *check) {
	if c.s.WAN.Mode == WANStatic && len(c.s.DNS.Upstreams) == 0 {
		c.addf("dns upstreams", "", "missing: a static WAN offers no resolver", "at least one address, e.g. 9.9.9.9")
	}
	seen := map[netip.Addr]bool{}
	for _, u := range c.s.DNS.Upstreams {
		switch {
		case !u.Is4(): // reported as a bad value
		case u == c.s.LAN.Address.Addr():
			c.addf("dns upstreams", u, "this is the router itself, which would ask itself for ever", "another resolver, e.g. 9.9.9.9")
		case badUnicast(u):
			c.addf("dns upstreams", u, "not a server's address", "a resolver's address, e.g. 9.9.9.9")
		case seen[u]:
			c.addf("dns upstreams", u, "the same resolver twice", "each resolver once")
		}
		seen[u] = true
	}
}
