package passthrough

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// ends are those that one end of a tunnel may be.
type ends struct {
	set      string // its name in the table
	why      string // its setting
	limited  bool   // else anybody is right
	prefixes []netip.Prefix
	from     map[netip.Prefix]string // the DNS name that an address comes from
	// named tells that the list has names of lan hosts, who are right by their
	// MAC; hosts are those whose address is known.
	named bool
	hosts []host
}

// host is a device that is known by its MAC, with an address that it has: its
// fixed one, or that of a lease.
type host struct {
	name, mac string
	addr      netip.Addr
}

// Sets and chains of a list that has names of lan hosts.
func (e ends) hostSet() string    { return e.set + "_hosts" }     // MAC . address
func (e ends) addressSet() string { return e.set + "_addresses" } // of these
func (e ends) hostChain() string  { return "by_mac_" + e.set }

// deviceEnds are the devices of a list.
func deviceEnds(s *settings.Settings, f facts.Facts, e ends, words []string) ends {
	e.limited = len(words) > 0
	var plain []string
	for _, w := range s.Members(words) {
		h, ok := s.LAN.Hosts[w]
		if !ok {
			plain = append(plain, w)
			continue
		}
		e.named = true
		e.hosts = append(e.hosts, hostsOf(s, f, w, h)...)
	}
	e.prefixes = s.Prefixes(plain)
	// Whose address is in the list has its rights by that.
	e.hosts = slices.DeleteFunc(e.hosts, func(h host) bool { return e.inPrefix(h.addr) })
	slices.SortFunc(e.hosts, host.compare)
	e.hosts = slices.Compact(e.hosts)
	return e
}

func (h host) compare(o host) int {
	if c := h.addr.Compare(o.addr); c != 0 {
		return c
	}
	return strings.Compare(h.mac+h.name, o.mac+o.name)
}

// hostsOf are a device's addresses. A lease is the device's by the MAC that
// asked for it, never by the name that a device sent; one of another's fixed
// address is no more in force.
func hostsOf(s *settings.Settings, f facts.Facts, name string, h settings.Host) (out []host) {
	if h.Address.IsValid() {
		out = append(out, host{name, h.MAC, h.Address})
	}
	for _, l := range f.Leases {
		fixed := func(o settings.Host) bool { return o.Address == l.Addr && o.MAC != l.MAC }
		if l.MAC == h.MAC && l.Addr != h.Address && !anyHost(s, fixed) {
			out = append(out, host{name, h.MAC, l.Addr})
		}
	}
	return out
}

func anyHost(s *settings.Settings, is func(settings.Host) bool) bool {
	for _, h := range s.LAN.Hosts {
		if is(h) {
			return true
		}
	}
	return false
}

// serverEnds are the servers of a list. A name that has no address yet names
// nobody.
func serverEnds(s *settings.Settings, f facts.Facts, e ends, words []string) ends {
	e.limited = len(words) > 0
	all := s.Prefixes(slices.DeleteFunc(slices.Clone(words), settings.IsName))
	e.from = map[netip.Prefix]string{}
	for _, n := range f.Names {
		if !slices.Contains(words, n.Name) {
			continue
		}
		for _, a := range n.Addrs {
			p := netip.PrefixFrom(a, a.BitLen())
			if e.from[p] == "" && !slices.Contains(all, p) {
				e.from[p] = n.Name
				all = append(all, p)
			}
		}
	}
	e.prefixes = settings.Disjoint(all)
	return e
}

func (e ends) inPrefix(a netip.Addr) bool {
	return slices.ContainsFunc(e.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// has tells whether whoever has the address a may be right.
func (e ends) has(a netip.Addr) bool {
	return !e.limited || e.inPrefix(a) || slices.ContainsFunc(e.hosts, func(h host) bool { return h.addr == a })
}

// covers tells whether all that o has is in e too.
func (e ends) covers(o ends) bool {
	if !e.limited || !o.limited {
		return !e.limited
	}
	for _, p := range o.prefixes {
		if !slices.ContainsFunc(e.prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			return false
		}
	}
	for _, h := range o.hosts {
		if !e.inPrefix(h.addr) && !slices.ContainsFunc(e.hosts, func(x host) bool { return x.mac == h.mac && x.addr == h.addr }) {
			return false
		}
	}
	return true
}

// sets are those that tell who is right by what a packet has of its sender.
func (e ends) sets() []rs.Set {
	if !e.limited {
		return nil
	}
	s := rs.Set{Name: e.set, Key: []rs.Type{rs.IPv4Addr}, Interval: true}
	for _, p := range e.prefixes {
		why := e.why
		if name := e.from[p]; name != "" {
			why += " " + name
		}
		s.Elements = append(s.Elements, rs.Element{Key: rs.Addr(p.Masked().Addr()), End: rs.PrefixEnd(p), Why: why})
	}
	s.Sort()
	if !e.named {
		return []rs.Set{s}
	}
	hosts := rs.Set{Name: e.hostSet(), Key: []rs.Type{rs.EtherAddr, rs.IPv4Addr}}
	for _, h := range e.hosts {
		hosts.Elements = append(hosts.Elements, rs.Element{Key: rs.Cat(rs.Ether(h.mac), rs.Addr(h.addr)), Why: e.why + " " + h.name})
	}
	hosts.Sort()
	return []rs.Set{s, hosts}
}

// addresses is the set for packets to the devices that are right by their MAC,
// which has to be found out yet: they go by address.
func (e ends) addresses() []rs.Set {
	if !e.named {
		return nil
	}
	s := rs.Set{Name: e.addressSet(), Key: []rs.Type{rs.IPv4Addr}}
	for _, h := range e.hosts {
		x := rs.Element{Key: rs.Addr(h.addr), Why: e.why + " " + h.name}
		if !slices.ContainsFunc(s.Elements, func(o rs.Element) bool { return o.Key == x.Key }) {
			s.Elements = append(s.Elements, x)
		}
	}
	s.Sort()
	return []rs.Set{s}
}

// outward ends, with how, what leaves the LAN from or to somebody else: by the
// address, then by the sender's MAC.
func (e ends) outward(way []rs.Expr, f rs.Field, how rs.Expr) rs.Rule {
	if e.named {
		how = rs.Verdict{Kind: rs.Jump, Chain: e.hostChain()}
	}
	return rs.R(e.why, append(slices.Clone(way), rs.In{Key: rs.Fields{f}, Set: e.set, Not: true}, how)...)
}

// byMAC is the chain that a rule of outward jumps to. It ends what it does not
// know, also where a packet has no source address of Ethernet.
func (e ends) byMAC(how rs.Expr) []rs.Chain {
	if !e.named {
		return nil
	}
	return []rs.Chain{{Name: e.hostChain(), Rules: []rs.Rule{
		rs.R(e.why, rs.In{Key: rs.Fields{rs.FieldEtherSource, rs.FieldSource}, Set: e.hostSet()}, rs.Verdict{Kind: rs.Return}),
		rs.R(e.why, how),
	}}}
}

// inward ends, with how, what enters the LAN from or to somebody else.
func (e ends) inward(way []rs.Expr, f rs.Field, how rs.Expr) rs.Rule {
	out := append(slices.Clone(way), rs.In{Key: rs.Fields{f}, Set: e.set, Not: true})
	if e.named {
		out = append(out, rs.In{Key: rs.Fields{f}, Set: e.addressSet(), Not: true})
	}
	return rs.R(e.why, append(out, how)...)
}

// Refusal is a list of a protocol that is on in which an end is missing.
type Refusal struct {
	Protocol, List string // the setting: "devices" or "servers"
	Why            string // where the list itself does not tell; may be empty
}

// Refusals tells which lists refuse tunnels between a device and a server. mac
// is what the device has now, "" when that is not known.
func Refusals(s *settings.Settings, f facts.Facts, device netip.Addr, mac string, server netip.Addr) (out []Refusal) {
	for _, l := range limits(s, f) {
		if l.atServers && (l.off || !l.servers.has(server)) {
			continue
		}
		switch d := l.devices; {
		case !d.has(device):
			out = append(out, Refusal{Protocol: l.name, List: "devices"})
		case mac != "" && d.limited && !d.inPrefix(device) && !slices.ContainsFunc(d.hosts, func(h host) bool { return h.addr == device && h.mac == mac }):
			i := slices.IndexFunc(d.hosts, func(h host) bool { return h.addr == device })
			out = append(out, Refusal{l.name, "devices", device.String() + " is the address of " + d.hosts[i].name + ", whose hardware address is " + d.hosts[i].mac + ", but " + mac + " has it now"})
		}
		if !l.servers.has(server) {
			out = append(out, Refusal{Protocol: l.name, List: "servers"})
		}
	}
	return out
}
