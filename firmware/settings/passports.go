package settings

import (
	"slices"
	"strconv"
)

// PassPort is a port at which a VPN protocol is looked for.
type PassPort struct {
	Protocol string // TCP or UDP
	Port     int
}

// Looked lists the ports at which p is looked for; those that were chosen come
// last.
func (p Protocol) Looked() []PassPort {
	var out []PassPort
	add := func(protocol string, ports ...int) {
		for _, n := range ports {
			out = append(out, PassPort{protocol, n})
		}
	}
	switch p.Name {
	case "pptp":
		add(TCP, p.Ports...)
	case "l2tp":
		add(UDP, p.Ports...)
	case "ipsec":
		add(UDP, 500, 4500)
		add(UDP, p.Ports...)
	case "sstp":
		add(TCP, 443)
	case "openvpn":
		add(UDP, 1194)
		add(TCP, 1194)
	case "wireguard":
		add(UDP, 51820)
	}
	return out
}

// checkSSTP wants SSTP's servers named: nothing else tells it from HTTPS
// ([MS-SSTP] 1.3), so nothing else can be refused.
func checkSSTP(c *check) {
	p := c.s.Passthrough.SSTP
	if len(p.Servers) > 0 {
		return
	}
	const text = "SSTP looks like any HTTPS site. Name the servers to refuse: set passthrough sstp servers vpn.example.com"
	switch {
	case !p.Enabled:
		c.addf("passthrough sstp off", "", text, "")
	case len(p.Devices) > 0:
		c.addf("passthrough sstp devices", "", text, "")
	}
}

// checkPassPorts finds ports that two protocols are looked for at, and servers
// at ports where theirs is not.
func checkPassPorts(c *check, serves map[string]Server) {
	all := c.s.Passthrough.Protocols()
	taken := map[PassPort]string{}
	for _, p := range all { // those that can't be chosen come first
		p.Ports = nil
		for _, x := range p.Looked() {
			taken[x] = p.Name
		}
	}
	for _, p := range all {
		path := "passthrough " + p.Name + " ports"
		looked := p.Looked()
		if len(looked) == 0 {
			c.addf(path, "none", "without a port it is looked for nowhere", "a port at least; to refuse the protocol: set passthrough "+p.Name+" off")
		}
		for _, x := range looked[len(looked)-min(len(p.Ports), len(looked)):] {
			if other, ok := taken[x]; ok {
				c.addf(path, x.Port, x.Protocol+" "+strconv.Itoa(x.Port)+" is already that of "+other, "a port that no protocol has yet")
			}
			taken[x] = p.Name
		}
		if s, ok := serves[p.Name]; ok && len(p.Ports) > 0 && !slices.Contains(looked, PassPort{s.Ports[0].Protocol, s.Ports[0].Port}) {
			c.addf(path, p.Ports[0], "lacks "+strconv.Itoa(s.Ports[0].Port)+", the port of "+s.Path(), "that one too; or lead to the server by firewall forward")
		}
	}
}
