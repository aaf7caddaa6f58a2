package passthrough

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Notes tell the person who turns a switch off what it cannot see.
func Notes(old, new settings.Passthrough) []string {
	was := old.Protocols()
	var out []string
	for i, p := range new.Protocols() {
		if !was[i].Enabled || p.Enabled {
			continue
		}
		switch p.Name {
		case "l2tp":
			out = append(out, "Refuses L2TP that is not inside IPsec; for L2TP/IPsec turn off ipsec")
		case "sstp":
			out = append(out, "Refuses TCP 443 of the servers that are named, and nothing of others")
		case "openvpn":
			out = append(out, "Refuses port 1194 and OpenVPN's handshake at other ports, not OpenVPN inside TLS or obfuscated; other UDP begins anew")
		case "wireguard":
			out = append(out, "Refuses WireGuard by its handshake, not variants of it as AmneziaWG; other UDP begins anew")
		}
	}
	return out
}

// Selector picks conntrack entries, in every zone.
type Selector struct {
	Protocol uint8
	Port     int  // 0: all of the protocol
	DNATed   bool // only connections that were forwarded to a LAN device, by their external port
	Why      string
	allowed  *limit // leaves out the tunnels that may go on, see Picks
	// crossing leaves out what ends at the router, these ports, and what could
	// be no tunnel because it was refused before.
	crossing bool
	before   *limit
	others   []settings.PassPort
}

// Flow is a conntrack entry. ReplySrc and ReplySport are what the answers come
// from: of a DNATed flow the device and its own port. Crossing tells that it
// does not end at the router.
type Flow struct {
	Protocol                 uint8
	Sport, Dport, ReplySport uint16
	DNATed, Crossing         bool
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
	if s.before != nil && !s.before.may(device, server) {
		return false
	}
	return s.allowed == nil || f.DNATed && device == s.allowed.served || !s.allowed.may(device, server)
}

// fits looks at protocol and ports alone: by the original direction's, or by
// what the answers come from, which is a DNATed device's own port and what the
// rules look at.
func (s Selector) fits(f Flow) bool {
	at := func(port int) bool { return int(f.ReplySport) == port || int(f.Sport) == port }
	switch {
	case f.Protocol != s.Protocol:
		return false
	case s.DNATed:
		return f.DNATed && (s.Port == 0 || int(f.Dport) == s.Port)
	case s.crossing:
		return f.Crossing && !slices.ContainsFunc(s.others, func(p settings.PassPort) bool {
			return protocolNumber(p.Protocol) == s.Protocol && at(p.Port)
		})
	case s.Port == 0:
		return true
	}
	return at(s.Port)
}

// Outdated tells which conntrack entries have to be deleted after what was
// learned changed, for the reason of Ended.
func Outdated(s *settings.Settings, old, new facts.Facts) []Selector {
	return narrowed(s, limits(s, old), limits(s, new))
}

// Ended tells which conntrack entries have to be deleted after new took the
// place of old in the kernel: offloaded flows pass the chains by and would run
// on though they are refused now; and a helper is only given to new
// connections, so running PPTP starts anew when it is turned on.
func Ended(old, new *settings.Settings, f facts.Facts) []Selector {
	limited := limits(old, f)
	out := narrowed(new, limited, limits(new, f))
	was := old.Passthrough.Protocols()
	for i, p := range new.Passthrough.Protocols() {
		turned := p.Enabled != was[i].Enabled
		if p.Name == "sstp" || p.Enabled && p.Name != "pptp" {
			continue
		}
		why := "passthrough " + p.Name + " off"
		if p.Enabled {
			why = "passthrough " + p.Name + " on"
		}
		before := traffic(was[i])
		for _, x := range traffic(p) {
			if turned || !slices.Contains(before, x) {
				out = append(out, Selector{Protocol: x.protocol, Port: x.port, Why: why})
			}
		}
		if turned && hasHandshake(p.Name) {
			i := slices.IndexFunc(limited, func(l limit) bool { return l.name == p.Name })
			out = append(out, anywhere(new, Selector{Why: why, before: &limited[i]}))
		}
	}
	return out
}

// anywhere picks the UDP that a protocol known by its handshake may be: a flow
// whose entry is gone shows by its next packet what it is, so that of the
// others no more than this is lost. The ports of other tunnels are left out,
// whose next packet may be the server's.
func anywhere(s *settings.Settings, e Selector) Selector {
	e.Protocol, e.crossing = rs.UDP, true
	for _, p := range s.Passthrough.Protocols() {
		if p.Name == "l2tp" || p.Name == "ipsec" {
			e.others = append(e.others, p.Looked()...)
		}
	}
	return e
}

// narrowed lists the flows that end when new is for others than old: those
// that the flowtable may carry past the rules. PPTP has a helper, so the rules
// see each packet of it, as of GRE and ESP.
func narrowed(s *settings.Settings, was, is []limit) (out []Selector) {
	for _, l := range is {
		i := slices.IndexFunc(was, func(w limit) bool { return w.name == l.name })
		switch {
		case l.atServers:
			if i >= 0 && (was[i].off || !l.off && l.devices.covers(was[i].devices)) && was[i].servers.covers(l.servers) && was[i].served == l.served {
				continue
			}
		case i < 0 || l.devices.covers(was[i].devices) && l.servers.covers(was[i].servers) && (!l.limited() || slices.Equal(l.traffic, was[i].traffic)):
			continue
		}
		why := "passthrough " + l.name + " is for others"
		for _, x := range l.traffic {
			if x.port != 0 && l.name != "pptp" {
				out = append(out, Selector{Protocol: x.protocol, Port: x.port, Why: why, allowed: &l})
			}
		}
		if hasHandshake(l.name) {
			out = append(out, anywhere(s, Selector{Why: why, allowed: &l, before: &was[i]}))
		}
	}
	return out
}
