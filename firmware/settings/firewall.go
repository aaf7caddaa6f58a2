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
	used  map[string]*[1 << 10]uint64 // by protocol, a bit a port
	users map[wanPort]string          // those that are no forwards
	s     *Settings
}

// take takes a port for user, "" for a forward; other is who has it already.
func (p *wanPorts) take(k wanPort, user string) (other string, clash bool) {
	bits := p.used[k.protocol]
	if bits == nil {
		bits = new([1 << 10]uint64)
		p.used[k.protocol] = bits
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
	ports := c.wanPorts()
	for name, f := range c.s.Firewall.Forwards {
		if !c.forward(ports, name, f, false) {
			// Once more, by name and from the beginning, to tell of all of them.
			ports = c.wanPorts()
			for _, name := range sortedKeys(c.s.Firewall.Forwards) {
				c.forward(ports, name, c.s.Firewall.Forwards[name], true)
			}
			break
		}
	}
	checkVPNServers(c, ports)
}

func (c *check) wanPorts() *wanPorts {
	p := &wanPorts{used: map[string]*[1 << 10]uint64{}, users: map[wanPort]string{}, s: c.s}
	if c.s.SSH.WAN {
		p.take(wanPort{TCP, c.s.SSH.Port}, "ssh (ssh wan is on)")
	}
	return p
}

// forward checks that a forward fits together with the rest; tell adds its
// problems.
func (c *check) forward(ports *wanPorts, name string, f Forward, tell bool) (ok bool) {
	ok = true
	problem := func(word string, value any, text, allowed string) {
		ok = false
		if tell {
			c.addf("firewall forward "+name+word, value, text, allowed)
		}
	}
	if lan := c.s.LAN.Address; f.To.Is4() && lan.IsValid() && lan.Addr().Is4() {
		if f.To == lan.Addr() {
			problem(" to", f.To, "this is the router itself", lanRange(lan)+"; for SSH from the Internet: set ssh wan on")
		} else if !usable(f.To, lan) {
			problem(" to", f.To, "not a device's address in the LAN", lanRange(lan))
		}
	}
	if !f.Enabled {
		return ok
	}
	for _, p := range [...]string{TCP, UDP} {
		if f.Protocol != p && f.Protocol != TCPUDP {
			continue
		}
		if other, clash := ports.take(wanPort{p, f.Port}, ""); clash {
			problem(" port", f.Port, p+" "+strconv.Itoa(f.Port)+" is already used by "+other, "a port of its own, or turn one of them off")
			break
		}
	}
	return ok
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
