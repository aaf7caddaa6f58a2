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

// wanPorts are the ports of the WAN address that are in use: thousands may be,
// and who uses one is asked only when two want it.
type wanPorts struct {
	tcp, udp [1 << 10]uint64    // a bit a port
	users    map[wanPort]string // those that are no forwards
	s        *Settings
}

// take takes a port for user, "" for a forward; other is who has it already.
func (p *wanPorts) take(k wanPort, user string) (other string, clash bool) {
	bits := &p.tcp
	if k.protocol == UDP {
		bits = &p.udp
	}
	if k.port < 0 || k.port > 65535 {
		return "", false // reported as a bad value
	}
	if bits[k.port/64]&(1<<(k.port%64)) != 0 {
		return p.user(k), true
	}
	bits[k.port/64] |= 1 << (k.port % 64)
	if user != "" {
		p.users[k] = user
	}
	return "", false
}

// user is who has a port: of several forwards the first.
func (p *wanPorts) user(k wanPort) string {
	if u, ok := p.users[k]; ok {
		return u
	}
	for _, name := range sortedKeys(p.s.Firewall.Forwards) {
		f := p.s.Firewall.Forwards[name]
		if f.Enabled && f.Port == k.port && (f.Protocol == k.protocol || f.Protocol == TCPUDP) {
			return "firewall forward " + name
		}
	}
	return ""
}

func checkFirewall(c *check) {
	ports, lan := c.wanPorts(), devices(c.s.LAN.Address)
	for _, f := range c.s.Firewall.Forwards {
		if !lan.has(f.To) || !ports.takeAll(f) {
			// Once more, by name and from the beginning, to tell of all of them.
			ports = c.wanPorts()
			for _, name := range sortedKeys(c.s.Firewall.Forwards) {
				c.forward(ports, name, c.s.Firewall.Forwards[name])
			}
			break
		}
	}
	checkVPNServers(c, ports)
}

func (c *check) wanPorts() *wanPorts {
	p := &wanPorts{users: map[wanPort]string{}, s: c.s}
	if c.s.SSH.WAN {
		p.take(wanPort{TCP, c.s.SSH.Port}, "ssh (ssh wan is on)")
	}
	return p
}

// forward checks that a forward fits together with the rest.
func (c *check) forward(ports *wanPorts, name string, f Forward) {
	path := "firewall forward " + name
	if lan := c.s.LAN.Address; f.To.Is4() && lan.IsValid() && lan.Addr().Is4() {
		if f.To == lan.Addr() {
			c.addf(path+" to", f.To, "this is the router itself", lanRange(lan)+"; for SSH from the Internet: set ssh wan on")
		} else if !usable(f.To, lan) {
			c.addf(path+" to", f.To, "not a device's address in the LAN", lanRange(lan))
		}
	}
	if !f.Enabled {
		return
	}
	for _, p := range [...]string{TCP, UDP} {
		if f.Protocol != p && f.Protocol != TCPUDP {
			continue
		}
		if other, clash := ports.take(wanPort{p, f.Port}, ""); clash {
			c.addf(path+" port", f.Port, p+" "+strconv.Itoa(f.Port)+" is already used by "+other, "a port of its own, or turn one of them off")
			break
		}
	}
}

// takeAll takes the ports of a forward, false when it can't have all of them.
func (p *wanPorts) takeAll(f Forward) bool {
	if !f.Enabled {
		return true
	}
	if f.Port < 1 || f.Port > 65535 {
		return false
	}
	clash := uint64(0)
	bit := uint64(1) << (f.Port % 64)
	if f.Protocol != UDP {
		clash |= p.tcp[f.Port/64] & bit
		p.tcp[f.Port/64] |= bit
	}
	if f.Protocol != TCP {
		clash |= p.udp[f.Port/64] & bit
		p.udp[f.Port/64] |= bit
	}
	return clash == 0
}

// lanDevices are the addresses that devices of a LAN may have, as numbers.
type lanDevices struct{ first, last, router uint32 }

func devices(lan netip.Prefix) lanDevices {
	if !lan.IsValid() || !lan.Addr().Is4() {
		return lanDevices{first: 1} // none: it has to be looked at one by one
	}
	size := uint32(1)<<(32-lan.Bits()) - 1
	d := lanDevices{first: number(lan.Masked().Addr()), router: number(lan.Addr())}
	d.last = d.first + size
	if lan.Bits() < 31 { // neither the network's nor the broadcast address
		d.first, d.last = d.first+1, d.last-1
	}
	return d
}

func (d lanDevices) has(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	n := number(a)
	return n >= d.first && n <= d.last && n != d.router
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// rightForwards tells whether every forward is right by itself; it is what the
// schema says of them, without its messages.
func rightForwards(m map[string]Forward) bool {
	for name, f := range m {
		if !isLabel(name) || f.Protocol != TCP && f.Protocol != UDP && f.Protocol != TCPUDP ||
			f.Port < 1 || f.Port > 65535 || f.ToPort < 0 || f.ToPort > 65535 || !f.To.Is4() {
			return false
		}
	}
	return true
}
