// Package passthrough decides what each VPN protocol needs of the ruleset, and
// which running connections end when a switch is turned. It is pure.
package passthrough

import (
	"slices"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Names in the table.
const (
	helper           = "pptp"
	refusedProtocols = "refused_protocols"
	refusedPorts     = "refused_ports"
)

// port is a protocol with a port; port 0 is a protocol without ports.
type port struct {
	protocol uint8
	port     int
}

// traffic is what tells a protocol by itself: its ports, and protocols without
// ports. SSTP's is HTTPS too, and WireGuard has no port: see limits and
// handshakes.
func traffic(p settings.Protocol) (out []port) {
	if p.Name == "wireguard" {
		return nil
	}
	for _, x := range p.Looked() {
		out = append(out, port{protocolNumber(x.Protocol), x.Port})
	}
	switch p.Name {
	case "pptp":
		out = append(out, port{rs.GRE, 0})
	case "l2tp":
		out = append(out, port{rs.L2TP, 0})
	case "ipsec":
		out = append(out, port{rs.ESP, 0}, port{rs.AH, 0})
	}
	return out
}

func protocolNumber(name string) uint8 {
	if name == settings.TCP {
		return rs.TCP
	}
	return rs.UDP
}

// Part is what passthrough adds to the ruleset.
type Part struct {
	Sets    []rs.Set
	Chains  []rs.Chain // that the rules of Refuse jump to
	Helpers []rs.Helper
	// Refuse comes first of all in the forward chain, before established
	// connections are accepted or offloaded.
	Refuse []rs.Rule
	// FromLAN and FromWAN are for new forwarded connections, before they are
	// accepted. The WAN's see the translated port, so a LAN server is found by
	// its own port whatever the external one is.
	FromLAN, FromWAN []rs.Rule
	// Carried comes before what puts established connections into the
	// flowtable: it keeps those out that the rules have to see more of.
	Carried []rs.Rule
	// Masqueraded come before everything else is.
	Masqueraded []rs.Rule
	// IP is table ip, nil when there is none, and Untracked what the forward
	// chain needs for it.
	IP        *rs.Table
	Untracked []rs.Rule
}

// Rules gives the part for these settings.
//
// IPsec with NAT-T needs nothing but masquerading, which gives each device a
// port of its own; native ESP and L2TP have table ip.
func Rules(s *settings.Settings, n Network) Part {
	var part Part
	p, all := s.Passthrough, limits(s, n.Facts)
	for _, l := range all {
		if l.name == "ipsec" {
			n.allowed = l
		}
	}
	n.alone, n.Keeper = !p.IPsec.Copy, Keeper(s, n.Facts)
	if part.IP = IPsecTable(p.IPsec.Enabled, n); part.IP != nil {
		part.IP.Chains = append(part.IP.Chains, n.allowed.devices.byMAC(accept)...)
		part.Untracked = Untracked(n)
		if n.alone {
			part.Masqueraded = otherPort(n)
		}
	}
	part.Masqueraded = append(part.Masqueraded, n.keepPort(p.L2TP.Enabled)...)
	if p.IPsec.Enabled {
		part.FromLAN = authenticationHeader(n)
	}
	if p.PPTP.Enabled {
		// Since Linux 6.0 no helper is assigned by itself. With it the
		// data connection (GRE) is RELATED and needs no rule.
		part.Helpers = []rs.Helper{{Name: helper, Type: "pptp", Protocol: rs.TCP}}
		for _, n := range p.PPTP.Ports {
			control, assign := rs.Dport{Protocol: rs.TCP, Port: n}, rs.SetHelper{Name: helper}
			part.FromLAN = append(part.FromLAN, rs.R("passthrough pptp on", control, assign))
			part.FromWAN = append(part.FromWAN, rs.R("passthrough pptp on", rs.DNATed{}, control, assign))
		}
	}
	if i := slices.IndexFunc(all, func(l limit) bool { return l.name == "l2tp" }); i >= 0 {
		l2tpPart(&part, all[i], p.L2TP.Ports, n)
	}
	subnetPart(&part, n)
	refusePart(&part, p)
	limitPart(&part, all, n)
	handshakePart(&part, s, all, n)
	return part
}

// authenticationHeader refuses AH, and has netd say why: it signs the addresses
// that NAT rewrites, so no server would take it (RFC 3715 2.1).
func authenticationHeader(n Network) []rs.Rule {
	ah := []rs.Expr{rs.L4{Protocol: rs.AH}, rs.Oif{Name: n.WANDevice}}
	return []rs.Rule{
		rs.R("netd logs it", append(slices.Clone(ah), rs.Limit{Rate: 1, Burst: 10}, rs.Log{Group: LogGroup, Bytes: 20, Prefix: LogAH})...),
		rs.R("AH can't cross NAT", append(ah, rs.AdminProhibited)...),
	}
}

// refusePart adds what refuses the protocols that are off.
func refusePart(part *Part, p settings.Passthrough) {
	protocols := rs.Set{Name: refusedProtocols, Key: []rs.Type{rs.InetProto}}
	ports := rs.Set{Name: refusedPorts, Key: []rs.Type{rs.InetProto, rs.InetService}}
	for _, x := range p.Protocols() {
		if x.Enabled || x.Name == "sstp" {
			continue
		}
		why := "passthrough " + x.Name + " off"
		for _, t := range traffic(x) {
			if t.port == 0 {
				protocols.Elements = append(protocols.Elements, rs.Element{Key: rs.Protocol(t.protocol), Why: why})
			} else {
				ports.Elements = append(ports.Elements, rs.Element{Key: rs.Cat(rs.Protocol(t.protocol), rs.PortNumber(t.port)), Why: why})
			}
		}
	}
	if len(ports.Elements) == 0 {
		return
	}
	protocols.Sort()
	ports.Sort()
	part.Sets = []rs.Set{protocols, ports}
	refuse := func(key ...rs.Field) rs.Rule {
		set := refusedPorts
		if len(key) == 1 {
			set = refusedProtocols
		}
		return rs.R("passthrough off", rs.In{Key: key, Set: set}, rs.AdminProhibited)
	}
	part.Refuse = []rs.Rule{
		refuse(rs.FieldProtocol),
		refuse(rs.FieldProtocol, rs.FieldDport),
		// Answers, and flows that a server starts.
		refuse(rs.FieldProtocol, rs.FieldSport),
	}
}

// Unanswered lists the IP protocols, with the setting that refuses them, about
// which nftables' reject sends no ICMP: it answers only what carries a right
// checksum or is known to have none of the usual kind. The others have to be
// refused by routing; nftables drops them all the same.
func Unanswered(p settings.Passthrough) map[uint8]string {
	if p.L2TP.Enabled {
		return nil
	}
	return map[uint8]string{rs.L2TP: "passthrough l2tp off"}
}
