package settings

import "net/netip"

// WAN modes.
const (
	WANDHCP   = "dhcp"
	WANStatic = "static"
)

// WAN is the Internet side.
type WAN struct {
	Mode   string     `json:"mode" schema:"enum=dhcp|static" help:"how the WAN gets its address"`
	Static WANStatics `json:"static" help:"used when mode is static"`
	MTU    int        `json:"mtu,omitempty" schema:"min=576,max=1500,zero" help:"576 to 1500; 0 = automatic"`
}

// WANStatics is the configuration of a static WAN.
type WANStatics struct {
	Address netip.Prefix `json:"address,omitzero" help:"WAN address and prefix, e.g. 203.0.113.2/24"`
	Gateway netip.Addr   `json:"gateway,omitzero" help:"next hop towards the Internet"`
}

func defaultWAN() WAN { return WAN{Mode: WANDHCP} }

func checkWAN(c *check) {
	w := &c.s.WAN
	if w.Mode != WANStatic {
		return
	}
	const example = "the address and prefix of your provider, e.g. 203.0.113.2/24"
	a, g := w.Static.Address, w.Static.Gateway
	switch {
	case !a.IsValid():
		c.addf("wan static address", "", "missing, and wan mode is static", example)
	case !a.Addr().Is4(): // reported as a bad value
	default:
		lan := c.s.LAN.Address
		if why := badInterface(a, 1, 31); why != "" {
			c.addf("wan static address", a, why, example)
		} else if lan.IsValid() && lan.Overlaps(a.Masked()) {
			c.addf("wan static address", a, "overlaps the LAN "+lan.Masked().String(), "another prefix; or change lan address first, e.g. 192.168.77.1/24")
		}
	}
	switch {
	case !g.IsValid():
		c.addf("wan static gateway", "", "missing, and wan mode is static", "the address of your provider's router")
	case !g.Is4() || !a.IsValid() || !a.Addr().Is4():
	case g == a.Addr() || !usable(g, a):
		c.addf("wan static gateway", g, "not another device's address in the WAN's prefix", "an address in "+a.Masked().String()+", not "+a.Addr().String())
	}
}
