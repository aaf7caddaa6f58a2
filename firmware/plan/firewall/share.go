package firewall

import (
	"time"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// Names in the table.
const (
	held      = "connections" // device, with its connections
	overShare = "over_share"  // devices that just had too many
	share     = "share"
)

// recheck is how long a device's new connections are refused unseen when it has
// its share: counting walks all of its connections, which a flood must not make
// the kernel do for each packet.
const recheck = time.Second

// Connections is how many connections conntrack has room for on a board with
// this many megabytes: 128 a megabyte, about 4 % of the memory when full. It is
// a power of two, since the kernel rounds the buckets to full pages.
func Connections(ram int) int {
	n := 8192
	for n*2 <= ram*128 && n < 1<<17 {
		n *= 2
	}
	return n
}

// Share is how many of them a device of the LAN may hold.
func Share(ram int) int { return Connections(ram) / 4 }

func shareSets(in Input) []rs.Set {
	size := 1 << min(32-in.LAN.Bits(), 12)
	key := []rs.Type{rs.IPv4Addr}
	return []rs.Set{
		{Name: held, Key: key, Learned: true, Size: size},
		{Name: overShare, Key: key, Learned: true, Timeout: recheck, Size: size},
	}
}

// shareRules keep a device's new connections, to the router too, from taking
// more than its share of conntrack. They stand in a chain of type nat, which
// sees only the first packet of a connection.
func shareRules(in Input) (rs.Rule, rs.Chain) {
	const why = "a device's share of connections"
	from := rs.Fields{rs.FieldSource}
	return rs.R(why, rs.Iif{Name: in.LANDevice}, rs.Source{Prefix: in.LAN.Masked()}, rs.Verdict{Kind: rs.Jump, Chain: share}),
		rs.Chain{Name: share, Rules: []rs.Rule{
			rs.R(why, rs.In{Key: from, Set: overShare}, drop),
			rs.R(why, rs.CountOver{Set: held, Key: from, Most: Share(in.RAM)}, rs.Learn{Set: overShare, Key: from}, drop),
		}}
}
