package firewall

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// forwarding is one port of the WAN's address that leads to a device.
type forwarding struct {
	name     string // of who asks for it, for people
	path     string // its setting
	portPath string // the setting of the port
	protocol uint8
	port     int
	to       netip.Addr
	toPort   int
}

// forwardMaps has one element a port: in the first map that of each port
// forward and VPN server; in the second, which there is for an IPsec server
// alone, that of each protocol without ports.
func forwardMaps(in Input) ([]rs.Set, []settings.Problem) {
	m := rs.Set{Name: forwardsMap, Key: []rs.Type{rs.InetProto, rs.InetService}, Data: []rs.Type{rs.IPv4Addr, rs.InetService}}
	elements, ok := forwardElements(in)
	if m.Elements = elements; ok {
		return withProtocols(in, m), nil
	}
	wanted, problems := forwardings(in)
	taken := make(map[rs.Key]string, len(wanted))
	clashed := map[string]bool{}
	for _, f := range wanted {
		key := rs.Cat(rs.Protocol(f.protocol), rs.PortNumber(f.port))
		if other, ok := taken[key]; ok {
			if !clashed[f.path] {
				problems = append(problems, settings.Problem{Path: f.portPath, Value: strconv.Itoa(f.port),
					Text: "already forwarded by " + other, Allowed: "a port that no other forward has"})
			}
			clashed[f.path] = true
			continue
		}
		taken[key] = f.name
		m.Elements = append(m.Elements, rs.Element{Key: key, Data: rs.Cat(rs.Addr(f.to), rs.PortNumber(f.toPort)), Why: f.path})
	}
	m.Sort()
	return withProtocols(in, m), problems
}

// withProtocols adds the map of protocols without ports to that of ports.
func withProtocols(in Input, m rs.Set) []rs.Set {
	server := ipsecServer(in)
	if !server.IsValid() {
		return []rs.Set{m}
	}
	// The port stays what it is: ESP has none.
	return []rs.Set{m, {Name: protocolsMap, Key: []rs.Type{rs.InetProto}, Data: m.Data, Elements: []rs.Element{
		{Key: rs.Protocol(rs.ESP), Data: rs.Cat(rs.Addr(server), rs.PortNumber(0)), Why: "firewall vpn-server ipsec"}}}}
}

// forwardings lists the ports that lead to devices of the LAN, and reports the
// settings that lead elsewhere.
func forwardings(in Input) (out []forwarding, problems []settings.Problem) {
	device := func(path, value string, a netip.Addr) bool {
		ok := isDevice(in, a)
		if !ok {
			problems = append(problems, settings.Problem{Path: path + " to", Value: value,
				Text: "not a device of the LAN", Allowed: "an address in " + in.LAN.Masked().String()})
		}
		return ok
	}
	all := in.Settings.Firewall.Forwards
	for _, name := range sortedNames(all) {
		f, path := all[name], "firewall forward "+name
		if !f.Enabled || !device(path, f.To.String(), f.To) {
			continue
		}
		to := f.ToPort
		if to == 0 {
			to = f.Port
		}
		for _, p := range protocols(f.Protocol) {
			out = append(out, forwarding{name, path, path + " port", p, f.Port, f.To, to})
		}
	}
	for _, s := range in.Settings.Firewall.Servers() {
		a, _ := in.Settings.Device(s.Device)
		if !device(s.Path(), s.Device, a) {
			continue
		}
		portPath := s.Path()
		if s.External {
			portPath += " external-port"
		}
		for _, p := range s.Ports {
			out = append(out, forwarding{s.Path(), s.Path(), portPath, protocols(p.Protocol)[0], p.External, a, p.Port})
		}
	}
	return out, problems
}

// isDevice tells whether a can be a device of the LAN in effect.
func isDevice(in Input, a netip.Addr) bool { return in.LAN.Contains(a) && a != in.LAN.Addr() }

// ipsecServer is the LAN device that serves IPsec, invalid when none does.
func ipsecServer(in Input) netip.Addr {
	if a, ok := in.Settings.Device(in.Settings.Firewall.VPNServers.IPsec.To); ok && isDevice(in, a) {
		return a
	}
	return netip.Addr{}
}

func sortedNames(all map[string]settings.Forward) []string {
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func protocols(p string) []uint8 {
	switch p {
	case settings.TCP:
		return []uint8{rs.TCP}
	case settings.UDP:
		return []uint8{rs.UDP}
	}
	return []uint8{rs.TCP, rs.UDP}
}

// Ended tells which running connections end when new takes the place of old:
// those of refused VPN protocols, and those that came through a port forward
// or to a VPN server that is gone or elsewhere. What was learned is the same.
func Ended(old, new *settings.Settings, f facts.Facts) []passthrough.Selector {
	out := passthrough.Ended(old, new, f)
	for _, name := range gone(old.Firewall.Forwards, new.Firewall.Forwards) {
		was := old.Firewall.Forwards[name]
		for _, p := range protocols(was.Protocol) {
			out = append(out, passthrough.Selector{Protocol: p, Port: was.Port, DNATed: true, Why: "firewall forward " + name})
		}
	}
	is := new.Firewall.Servers()
	for _, was := range old.Firewall.Servers() {
		if slices.ContainsFunc(is, func(s settings.Server) bool {
			a, _ := old.Device(was.Device)
			b, _ := new.Device(s.Device)
			return s.Name == was.Name && a == b && slices.Equal(s.Ports, was.Ports)
		}) {
			continue
		}
		for _, p := range was.Ports {
			out = append(out, passthrough.Selector{Protocol: protocols(p.Protocol)[0], Port: p.External, DNATed: true, Why: was.Path()})
		}
		if was.Name == "ipsec" {
			out = append(out, passthrough.Selector{Protocol: rs.ESP, DNATed: true, Why: was.Path()})
		}
	}
	return out
}

// gone are the forwards of old that is has no more, or not so, in order.
func gone(old, is map[string]settings.Forward) (names []string) {
	for name, was := range old {
		if now, ok := is[name]; was.Enabled && (!ok || now != was) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
