package passthrough

import (
	"net/netip"
	"slices"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Subnets behind a device that has IPsec, for devices that have none.
//
// A device that takes DHCP option 121 sends to the gateway directly. Another
// one sends to the router, which sends the packet back into the LAN; answers
// go from the gateway to the device. Conntrack would see half of each flow and
// take it for invalid, so such packets are kept out of it.

// Subnet is reached by way of a device of the LAN.
type Subnet struct {
	Dst netip.Prefix
	Via netip.Addr
	Why string // its setting
}

const lanSubnets = "lan_subnets" // set of table ip

// Subnets are those that can be reached; lan and wan are the router's
// addresses in effect, wan invalid while it is down. The others are reported.
func Subnets(s *settings.Settings, lan, wan netip.Prefix) (out []Subnet, problems []settings.Problem) {
	for _, t := range s.Passthrough.TunnelSubnets() {
		via, _ := s.Device(t.Via)
		problem := func(value, text, allowed string) {
			problems = append(problems, settings.Problem{Path: t.Path(), Value: value, Text: text + ", so it is not used", Allowed: allowed})
		}
		const allowed = "a subnet of the tunnel's other end alone"
		switch {
		case t.Prefix.Overlaps(lan.Masked()):
			problem(t.Prefix.String(), "overlaps the LAN "+lan.Masked().String(), allowed)
		case wan.IsValid() && t.Prefix.Overlaps(wan.Masked()):
			problem(t.Prefix.String(), "overlaps the WAN "+wan.Masked().String(), allowed)
		case !lan.Contains(via) || via == lan.Addr():
			problem(t.Via, "not a device of the LAN", "an address in "+lan.Masked().String())
		default:
			out = append(out, Subnet{Dst: t.Prefix, Via: via, Why: t.Path()})
		}
	}
	return out, problems
}

// TunnelMTU is what an IPv4 packet may measure in bytes to fit into an ESP
// packet of mtu bytes, whatever the algorithms: a new IPv4 header, UDP of NAT
// traversal (RFC 3948), ESP's header, an IV of 16 bytes and an ICV of 32 (RFC
// 4303 2, RFC 4868); what ESP encrypts is the packet and two bytes, padded to
// the cipher's block.
func TunnelMTU(mtu int) int {
	const around, block, trailer = 20 + 8 + 8 + 16 + 32, 16, 2
	return (mtu-around)/block*block - trailer
}

// subnetPart adds what lets devices reach the subnets through the router.
func subnetPart(part *Part, n Network) {
	if len(n.Subnets) == 0 {
		return
	}
	// Nested ones of several devices are one to the set; routes tell them apart.
	set := rs.Set{Name: lanSubnets, Key: []rs.Type{rs.IPv4Addr}, Interval: true}
	sorted := slices.Clone(n.Subnets)
	slices.SortStableFunc(sorted, func(a, b Subnet) int { return a.Dst.Bits() - b.Dst.Bits() })
	var have ends
	have.limited = true
	for _, s := range sorted {
		if !have.has(s.Dst.Addr()) {
			have.prefixes = append(have.prefixes, s.Dst)
			set.Elements = append(set.Elements, rs.Element{Key: rs.Addr(s.Dst.Addr()), End: rs.PrefixEnd(s.Dst), Why: s.Why})
		}
	}
	set.Sort()
	const why = "passthrough ipsec subnet"
	lan := []rs.Expr{rs.Iif{Name: n.LANDevice}, rs.Source{Prefix: n.LAN.Masked()}}
	t := part.table()
	t.Sets = append(t.Sets, set)
	early := earlyChain(t)
	// In front of what goes by protocols.
	early.Rules = slices.Insert(early.Rules, 0, rs.R(why, append(slices.Clone(lan), rs.In{Key: rs.Fields{rs.FieldDest}, Set: lanSubnets}, rs.Notrack{}, accept)...))
	part.Untracked = append(part.Untracked, rs.R(why, append([]rs.Expr{rs.Untracked, rs.Oif{Name: n.LANDevice}}, append(lan, accept)...)...))
}

// table is table ip, made when there is none yet.
func (p *Part) table() *rs.Table {
	if p.IP == nil {
		p.IP = &rs.Table{}
	}
	return p.IP
}

// earlyChain is table ip's chain before conntrack, made when there is none yet.
func earlyChain(t *rs.Table) *rs.Chain {
	if c := t.Chain(early); c != nil {
		return c
	}
	t.Chains = append(t.Chains, rs.Chain{Name: early, Type: "filter", Hook: rs.Prerouting, Priority: -300})
	return &t.Chains[len(t.Chains)-1]
}

// earlyUDPChain is where it goes on with UDP, made when there is none yet.
func earlyUDPChain(t *rs.Table) *rs.Chain {
	if c := t.Chain(earlyUDP); c != nil {
		return c
	}
	e := earlyChain(t)
	e.Rules = append(e.Rules, rs.R("by port", rs.L4{Protocol: rs.UDP}, to(earlyUDP)))
	t.Chains = append(t.Chains, rs.Chain{Name: earlyUDP})
	return &t.Chains[len(t.Chains)-1]
}
