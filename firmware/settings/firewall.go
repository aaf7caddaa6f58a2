package settings

import (
	"net/netip"
	"strconv"
)

// Firewall options and port forwards.
type Firewall struct {
	Offload    bool               `json:"offload" help:"carry established flows in the kernel's flowtable"`
	WANPing    bool               `json:"wan-ping" help:"answer ping from the Internet"`
	Forwards   map[string]Forward `json:"forward,omitempty" schema:"format=label,count=10000" help:"port forwards, by name"`
	VPNServers VPNServers         `json:"vpn-server,omitzero" help:"VPN servers on the LAN: all ports and protocols that each needs"`
}

// Protocols of a forward.
const (
	TCP    = "tcp"
	UDP    = "udp"
	TCPUDP = "tcp+udp"
)

// Forward sends a port of the WAN address to a LAN device.
type Forward struct {
	Enabled  bool       `json:"enabled" schema:"self" help:"on or off"`
	Protocol string     `json:"protocol" schema:"enum=tcp|udp|tcp+udp" help:"tcp, udp or tcp+udp"`
	Port     int        `json:"port" schema:"min=1,max=65535" help:"port on the WAN address, 1 to 65535"`
	To       netip.Addr `json:"to" help:"LAN address of the device"`
	ToPort   int        `json:"to-port,omitempty" schema:"min=1,max=65535,zero" help:"port on the device; 0 = the same"`
}

// setDefaults is what a new entry starts with.
func (f *Forward) setDefaults() { f.Enabled, f.Protocol = true, TCP }

func defaultFirewall() Firewall { return Firewall{Offload: true} }

// wanPort is one port of the WAN address.
type wanPort struct {
	protocol string
	port     int
}

func checkFirewall(c *check) {
	lan, taken := c.s.LAN.Address, map[wanPort]string{}
	if c.s.SSH.WAN {
		taken[wanPort{TCP, c.s.SSH.Port}] = "ssh (ssh wan is on)"
	}
	for _, name := range sortedKeys(c.s.Firewall.Forwards) {
		f, path := c.s.Firewall.Forwards[name], "firewall forward "+name
		if f.To.Is4() && lan.IsValid() && lan.Addr().Is4() {
			if f.To == lan.Addr() {
				c.addf(path+" to", f.To, "this is the router itself", lanRange(lan)+"; for SSH from the Internet: set ssh wan on")
			} else if !usable(f.To, lan) {
				c.addf(path+" to", f.To, "not a device's address in the LAN", lanRange(lan))
			}
		}
		if !f.Enabled {
			continue
		}
		for _, p := range [...]string{TCP, UDP} {
			if f.Protocol != p && f.Protocol != TCPUDP {
				continue
			}
			key := wanPort{p, f.Port}
			if other, clash := taken[key]; clash {
				c.addf(path+" port", f.Port, p+" "+strconv.Itoa(f.Port)+" is already used by "+other, "a port of its own, or turn one of them off")
				break
			}
			taken[key] = "firewall forward " + name
		}
	}
	checkVPNServers(c, taken)
}
