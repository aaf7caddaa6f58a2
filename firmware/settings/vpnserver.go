package settings

import (
	"net/netip"
	"strconv"
)

// VPNServers are the LAN's VPN servers that the Internet reaches, one a
// protocol.
type VPNServers struct {
	IPsec     IPsecServer `json:"ipsec,omitzero" help:"IPsec: UDP 500 and 4500, and ESP of peers that no device called"`
	L2TP      VPNServer   `json:"l2tp,omitzero" help:"L2TP: UDP 1701; L2TP inside IPsec needs the server of ipsec alone"`
	PPTP      VPNServer   `json:"pptp,omitzero" help:"PPTP: TCP 1723 and its GRE"`
	OpenVPN   VPNServer   `json:"openvpn,omitzero" help:"OpenVPN: UDP and TCP 1194"`
	WireGuard VPNServer   `json:"wireguard,omitzero" help:"WireGuard: UDP 51820"`
	SSTP      VPNServer   `json:"sstp,omitzero" help:"SSTP: TCP 443"`
}

// VPNServer is a LAN device that serves a VPN protocol.
type VPNServer struct {
	To           string `json:"to,omitempty" schema:"format=device" help:"the device that serves it; none = no server"`
	ExternalPort int    `json:"external-port,omitempty" schema:"min=1,max=65535,zero" help:"port on the WAN address; 0 = the protocol's own"`
}

// IPsecServer has no port of its choice: peers call 500 and 4500 (RFC 7296 2).
type IPsecServer struct {
	To string `json:"to,omitempty" schema:"format=device" help:"the device that serves it; none = no server"`
}

// ServerPort is a port that a VPN server needs.
type ServerPort struct {
	Protocol string // TCP or UDP
	External int    // on the WAN address
	Port     int    // on the device
}

// Server is one of VPNServers that is set.
type Server struct {
	Name   string // "pptp"
	Device string // as set: an address, or a name of lan hosts
	Ports  []ServerPort
	// External tells that the ports on the WAN address were chosen.
	External bool
}

// Path is where it is set.
func (s Server) Path() string { return "firewall vpn-server " + s.Name }

// Servers lists the VPN servers that are set, in the order of the schema.
func (f *Firewall) Servers() []Server {
	v := &f.VPNServers
	udp := func(port int) ServerPort { return ServerPort{UDP, port, port} }
	tcp := func(port int) ServerPort { return ServerPort{TCP, port, port} }
	var out []Server
	for _, s := range [...]struct {
		name string
		set  VPNServer
		port []ServerPort
	}{
		{"ipsec", VPNServer{To: v.IPsec.To}, []ServerPort{udp(500), udp(4500)}},
		{"l2tp", v.L2TP, []ServerPort{udp(1701)}},
		{"pptp", v.PPTP, []ServerPort{tcp(1723)}},
		{"openvpn", v.OpenVPN, []ServerPort{udp(1194), tcp(1194)}},
		{"wireguard", v.WireGuard, []ServerPort{udp(51820)}},
		{"sstp", v.SSTP, []ServerPort{tcp(443)}},
	} {
		if s.set.To == "" {
			continue
		}
		if s.set.ExternalPort != 0 {
			for i := range s.port {
				s.port[i].External = s.set.ExternalPort
			}
		}
		out = append(out, Server{Name: s.name, Device: s.set.To, Ports: s.port, External: s.set.ExternalPort != 0})
	}
	return out
}

// Device is the address of a LAN device that is named by its address or as in
// lan hosts; false when no such name is.
func (s *Settings) Device(name string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a, true
	}
	h, ok := s.LAN.Hosts[name]
	return h.Address, ok
}

// Devices calls fn with every place of the tree that names a LAN device by
// its address or name, or several by their prefix.
func (s *Settings) Devices(fn func(*string)) {
	v := &s.Firewall.VPNServers
	for _, to := range [...]*string{&v.IPsec.To, &v.L2TP.To, &v.PPTP.To, &v.OpenVPN.To, &v.WireGuard.To, &v.SSTP.To} {
		fn(to)
	}
	for _, p := range s.Passthrough.Protocols() {
		for i := range p.Devices {
			fn(&p.Devices[i])
		}
	}
	for _, g := range s.LAN.Groups {
		for i := range g.Members {
			fn(&g.Members[i])
		}
	}
	for i := range s.Passthrough.Priority {
		fn(&s.Passthrough.Priority[i])
	}
	for key, x := range s.Passthrough.IPsec.Subnets {
		fn(&x.Via)
		s.Passthrough.IPsec.Subnets[key] = x
	}
}

// checkVPNServers finds what is wrong with devices and ports; taken are the
// ports that have a use.
func checkVPNServers(c *check, ports *wanPorts) {
	v := c.s.Firewall.VPNServers
	for _, s := range [...]struct {
		name string
		set  VPNServer
	}{{"l2tp", v.L2TP}, {"pptp", v.PPTP}, {"openvpn", v.OpenVPN}, {"wireguard", v.WireGuard}, {"sstp", v.SSTP}} {
		if s.set.To == "" && s.set.ExternalPort != 0 {
			c.addf("firewall vpn-server "+s.name+" to", "", "missing", "the device that serves "+s.name)
		}
	}
	for _, s := range c.s.Firewall.Servers() {
		c.device(s.Path()+" to", s.Device)
		for _, p := range s.Ports {
			other, clash := ports.take(wanPort{p.Protocol, p.External}, s.Path())
			if !clash {
				continue
			}
			path, value, allowed := s.Path()+" to", s.Device, "one of them; or give this one an external-port of its own"
			switch {
			case s.Name == "ipsec":
				allowed = "one of them: IPsec has no ports but 500 and 4500"
			case s.External:
				path, value, allowed = s.Path()+" external-port", strconv.Itoa(p.External), "a port of its own, or turn one of them off"
			}
			c.addf(path, value, p.Protocol+" "+strconv.Itoa(p.External)+" is already used by "+other, allowed)
			break
		}
	}
}

// device checks that a word names a device of the LAN whose address is known.
func (c *check) device(path, word string) {
	if checkFormat("device", word) != nil {
		return // reported as a bad value
	}
	lan := c.s.LAN.Address
	a, ok := c.s.Device(word)
	switch {
	case !ok:
		c.addf(path, word, "no device of that name", lanRange(lan)+"; "+c.names())
	case !a.IsValid():
		c.addf(path, word, "this device has no fixed address", "one that has; or set lan hosts "+word+" address "+orAddress(lan))
	case !a.Is4() || !lan.IsValid() || !lan.Addr().Is4(): // reported elsewhere
	case a == lan.Addr():
		c.addf(path, word, "this is the router itself", lanRange(lan))
	case !usable(a, lan):
		c.addf(path, word, "not a device's address in the LAN", lanRange(lan))
	}
}
