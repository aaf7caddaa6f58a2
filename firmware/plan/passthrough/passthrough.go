// Package passthrough decides what each VPN protocol needs of the ruleset, and
// which running connections end when a switch is turned. It is pure.
package passthrough

import (
	"net/netip"
	"strconv"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// PPTPPort is the TCP port of PPTP's control connection, RFC 2637.
const PPTPPort = 1723

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

// traffic is what a protocol consists of.
func traffic(name string) []port {
	switch name {
	case "pptp":
		return []port{{rs.TCP, PPTPPort}, {rs.GRE, 0}}
	case "l2tp":
		return []port{{rs.UDP, 1701}, {rs.L2TP, 0}}
	case "ipsec":
		return []port{{rs.UDP, 500}, {rs.UDP, 4500}, {rs.ESP, 0}, {rs.AH, 0}}
	}
	return nil
}

// toggle is one protocol's switch.
type toggle struct {
	name string
	on   bool
}

func toggles(p settings.Passthrough) []toggle {
	return []toggle{{"pptp", p.PPTP.Enabled}, {"l2tp", p.L2TP.Enabled}, {"ipsec", p.IPsec.Enabled}}
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
	// IP is table ip, nil when there is none, and Untracked what the forward
	// chain needs for it.
	IP        *rs.Table
	Untracked []rs.Rule
}

// Rules gives the part for these settings.
//
// L2TP's many clients need nothing but masquerading, which gives each its own
// port; IPsec with NAT-T neither; native ESP has table ip.
func Rules(s *settings.Settings, n Network) Part {
	var part Part
	p, all := s.Passthrough, limits(s, n.Facts)
	for _, l := range all {
		if l.name == "ipsec" {
			n.allowed = l
		}
	}
	if part.IP = IPsecTable(p.IPsec.Enabled, n); part.IP != nil {
		part.IP.Chains = append(part.IP.Chains, n.allowed.devices.byMAC(accept)...)
		part.Untracked = Untracked(n)
	}
	if p.PPTP.Enabled {
		// Since Linux 6.0 no helper is assigned by itself. With it the
		// data connection (GRE) is RELATED and needs no rule.
		part.Helpers = []rs.Helper{{Name: helper, Type: "pptp", Protocol: rs.TCP}}
		control, assign := rs.Dport{Protocol: rs.TCP, Port: PPTPPort}, rs.SetHelper{Name: helper}
		part.FromLAN = []rs.Rule{rs.R("passthrough pptp on", control, assign)}
		part.FromWAN = []rs.Rule{rs.R("passthrough pptp on", rs.DNATed{}, control, assign)}
	}
	subnetPart(&part, n)
	refusePart(&part, p)
	limitPart(&part, all, n)
	return part
}

// refusePart adds what refuses the protocols that are off.
func refusePart(part *Part, p settings.Passthrough) {
	protocols := rs.Set{Name: refusedProtocols, Key: []rs.Type{rs.InetProto}}
	ports := rs.Set{Name: refusedPorts, Key: []rs.Type{rs.InetProto, rs.InetService}}
	for _, t := range toggles(p) {
		if t.on {
			continue
		}
		why := "passthrough " + t.name + " off"
		for _, x := range traffic(t.name) {
			if x.port == 0 {
				protocols.Elements = append(protocols.Elements, rs.Element{Key: rs.Protocol(x.protocol), Why: why})
			} else {
				ports.Elements = append(ports.Elements, rs.Element{Key: rs.Cat(rs.Protocol(x.protocol), rs.PortNumber(x.port)), Why: why})
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

// Notes tell the person who turns a switch off what it cannot see.
func Notes(old, new settings.Passthrough) []string {
	if old.L2TP.Enabled && !new.L2TP.Enabled {
		return []string{"Refuses L2TP that is not inside IPsec; for L2TP/IPsec turn off ipsec"}
	}
	return nil
}

// Selector picks conntrack entries, in every zone.
type Selector struct {
	Protocol uint8
	Port     int  // 0: all of the protocol
	DNATed   bool // only connections that were forwarded to a LAN device, by their external port
	Why      string
	allowed  *limit // leaves out the tunnels that may go on, see Picks
}

// Flow is a conntrack entry. ReplySrc and ReplySport are what the answers come
// from: of a DNATed flow the device and its own port.
type Flow struct {
	Protocol                 uint8
	Sport, Dport, ReplySport uint16
	DNATed                   bool
	Src, ReplySrc            netip.Addr
}

// Text is e.g. "tcp 1723 (passthrough pptp off)".
func (s Selector) Text() string {
	t := rs.KeyText([]rs.Type{rs.InetProto}, rs.Protocol(s.Protocol))
	if s.Port != 0 {
		t += " " + strconv.Itoa(s.Port)
	}
	return t + " (" + s.Why + ")"
}

// Picks tells whether an entry is picked.
func (s Selector) Picks(f Flow) bool {
	if !s.fits(f) {
		return false
	}
	device, server := f.Src, f.ReplySrc
	if f.DNATed { // the other end began
		device, server = server, device
	}
	return s.allowed == nil || !s.allowed.devices.has(device) || !s.allowed.servers.has(server)
}

// fits looks at protocol and ports alone: by the original direction's, or by
// what the answers come from, which is a DNATed device's own port and what the
// rules look at.
func (s Selector) fits(f Flow) bool {
	switch {
	case f.Protocol != s.Protocol:
		return false
	case s.DNATed:
		return f.DNATed && (s.Port == 0 || int(f.Dport) == s.Port)
	case s.Port == 0:
		return true
	}
	return int(f.ReplySport) == s.Port || int(f.Sport) == s.Port
}

// Outdated tells which conntrack entries have to be deleted after what was
// learned changed, for the reason of Ended.
func Outdated(s *settings.Settings, old, new facts.Facts) []Selector {
	return narrowed(limits(s, old), limits(s, new))
}

// Ended tells which conntrack entries have to be deleted after new took the
// place of old in the kernel: offloaded flows pass the chains by and would run
// on though they are refused now; and a helper is only given to new
// connections, so running PPTP starts anew when it is turned on.
func Ended(old, new *settings.Settings, f facts.Facts) []Selector {
	out := narrowed(limits(old, f), limits(new, f))
	was := toggles(old.Passthrough)
	for i, t := range toggles(new.Passthrough) {
		if t.on == was[i].on || t.on && t.name != "pptp" {
			continue
		}
		why := "passthrough " + t.name + " off"
		if t.on {
			why = "passthrough " + t.name + " on"
		}
		for _, x := range traffic(t.name) {
			out = append(out, Selector{Protocol: x.protocol, Port: x.port, Why: why})
		}
	}
	return out
}
