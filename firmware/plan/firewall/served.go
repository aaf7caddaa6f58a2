package firewall

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Served is a VPN server on the LAN as the firewall has it.
type Served struct {
	Name    string     // of the protocol: "pptp"
	Device  string     // as set: an address or a name
	Address netip.Addr // invalid when nothing has that name
	Ports   []string   // on the WAN's address: "tcp 1723", "gre", "tcp 8443 to 443"
	// Off is why peers on the Internet do not reach it, empty when they do.
	Off string
	// Peers are those on the Internet that passthrough allows; none is all.
	Peers []string
}

// Serving lists the VPN servers of settings, and how they stand in the table
// that was made of them.
func Serving(s *settings.Settings, table *rs.Table) []Served {
	var out []Served
	for _, server := range s.Firewall.Servers() {
		a, _ := s.Device(server.Device)
		v := Served{Name: server.Name, Device: server.Device, Address: a, Ports: portTexts(server)}
		leads := elements(table, forwardsMap, func(e rs.Element) bool { return e.Why == server.Path() })
		switch {
		case elements(table, wanAddresses, func(rs.Element) bool { return true }) == 0:
			v.Off = "the WAN has no address"
		case leads == 0:
			v.Off = "not a device of the LAN"
		case leads < len(server.Ports):
			v.Off = "another forward has a port of it"
		}
		for _, p := range s.Passthrough.Protocols() {
			if p.Name != server.Name {
				continue
			}
			if !p.Enabled {
				v.Off = "passthrough " + p.Name + " is off"
			}
			if p.Name != "sstp" { // whose servers limit nobody
				v.Peers = p.Servers
			}
		}
		out = append(out, v)
	}
	return out
}

// elements counts those of a set or map.
func elements(table *rs.Table, set string, which func(rs.Element) bool) (n int) {
	i := slices.IndexFunc(table.Sets, func(s rs.Set) bool { return s.Name == set })
	if i < 0 {
		return 0
	}
	for _, e := range table.Sets[i].Elements {
		if which(e) {
			n++
		}
	}
	return n
}

// portTexts are what a server needs of the WAN, for people.
func portTexts(s settings.Server) []string {
	var out []string
	for _, p := range s.Ports {
		text := strings.ToLower(p.Protocol) + " " + strconv.Itoa(p.External)
		if p.Port != p.External {
			text += " to " + strconv.Itoa(p.Port)
		}
		out = append(out, text)
	}
	switch s.Name {
	case "ipsec":
		out = append(out, "esp")
	case "pptp":
		out = append(out, "gre")
	}
	return out
}
