package firewall

import (
	"time"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// Names in the table.
const (
	held      = "connections" // device and part, with their connections
	overShare = "over_share"  // those that just had too many
	share     = "share"
)

// recheck is how long the new connections of a part are refused unseen when it
// is full: counting looks all of its connections up, which a flood must not make
// the kernel do for each packet.
const recheck = time.Second

// perPart is the most connections that the kernel looks up for a new one. A
// device's share is in parts of so many, and each connection draws its part.
const perPart = 128

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

// Crowded is from how many on some of a device's new connections are refused: its
// share is in parts, and one of them may be full before the others.
func Crowded(ram int) int { return Share(ram) - Share(ram)/8 }

func shareSets(in Input) []rs.Set {
	size := parts(in) << min(32-in.LAN.Bits(), 12)
	key := []rs.Type{rs.IPv4Addr, rs.Mark}
	return []rs.Set{
		{Name: held, Key: key, Learned: true, Size: size},
		{Name: overShare, Key: key, Learned: true, Timeout: recheck, Size: size},
	}
}

// parts is how many a device's share has: a power of two, as all are.
func parts(in Input) int { return Share(in.RAM) / perPart }

// shareRules keep a device's new connections, to the router too, from taking
// more than its share of conntrack. They stand in a chain of type nat, which
// sees only the first packet of a connection.
//
// Parts fill alike but not evenly. From about Crowded on some are full: who draws
// one is refused, and draws again with the next attempt. Never does a device
// hold more than its share.
func shareRules(in Input) (rs.Rule, rs.Chain) {
	const why = "a device's share of connections"
	part := rs.Fields{rs.FieldSource, rs.FieldMark}
	return rs.R(why, rs.Iif{Name: in.LANDevice}, rs.Source{Prefix: in.LAN.Masked()}, rs.Verdict{Kind: rs.Jump, Chain: share}),
		rs.Chain{Name: share, Rules: []rs.Rule{
			rs.R(why, rs.Draw{Of: parts(in)}),
			rs.R(why, rs.In{Key: part, Set: overShare}, drop),
			rs.R(why, rs.CountOver{Set: held, Key: part, Most: perPart}, rs.Learn{Set: overShare, Key: part}, drop),
			rs.R(why, rs.Unmark{}),
		}}
}
