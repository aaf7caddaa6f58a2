package passthrough

import (
	"slices"
	"time"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// What one device, or one server, may take of the learned sets.
//
// What is known costs nothing. What is new (a device's SPI, cookie or server, a
// server's SPI) has a bucket for each device and each server, so nobody else
// waits for a flood. A bucket only slows it: netd puts who has more than a share
// of a set into Crowding, and nothing more of theirs is learned until they
// have less.

// Names in table ip.
const (
	deviceRate  = "device_rate"  // bucket of each device
	secondRate  = "second_rate"  // of each device that waits for netd
	serverRate  = "server_rate"  // of each server
	unknownRate = "unknown_rate" // of what a server of several devices sends by SPIs that are not learned
	// Crowding are the devices and servers with more than a Share.
	Crowding = "crowding"
	// Excess are the devices whose packets were dropped because of a limit; the
	// elements count them.
	Excess = "excess"
	excess = "over_limit"
)

// Limits of learning.
const (
	newOfDevice, burstOfDevice = 2, 64 // a second
	newOfServer, burstOfServer = 10, 64
	unknownOfServer            = 500      // packets a second that are copied
	newOfAll, burstOfAll       = 100, 200 // second devices that netd is told of
	crowdingTimeout            = 90 * time.Second
	excessTimeout              = time.Hour
	// A bucket is full again before it is forgotten.
	bucketTimeout = 2 * time.Minute
)

// ShareCheck is how often netd looks for who has more than a share: often
// enough that nobody's bucket lets much through in between.
const ShareCheck = 30 * time.Second

// Share is how many elements of a set of this size one device or server may
// have.
func Share(size int) int { return size / 4 }

// hosts is how many devices the LAN has room for, at most as many as entries in
// other tables.
func (n Network) hosts() int {
	if bits := 32 - n.LAN.Bits(); n.LAN.IsValid() && bits < 16 {
		return min(1<<bits, n.limit())
	}
	return n.limit()
}

func (n Network) quotaSets() []rs.Set {
	set := func(name string, timeout time.Duration, size int) rs.Set {
		return rs.Set{Name: name, Key: []rs.Type{rs.IPv4Addr}, Learned: true, Timeout: timeout, Size: size}
	}
	return []rs.Set{
		set(deviceRate, bucketTimeout, n.hosts()), set(secondRate, bucketTimeout, n.hosts()), set(serverRate, bucketTimeout, n.limit()), set(unknownRate, bucketTimeout, n.limit()),
		set(Crowding, crowdingTimeout, n.limit()), set(Excess, excessTimeout, n.hosts()),
	}
}

// learn are rules for what a device has not sent before: it is learned and goes
// on to last, or the device has reached a limit. unknown matches just that, and
// not what is too short to have a key.
func learn(why string, last rs.Verdict, unknown []rs.Expr, what ...rs.Expr) []rs.Rule {
	from := rs.Fields{rs.FieldSource}
	return []rs.Rule{
		rs.R("it has its share", append(slices.Clone(unknown), rs.In{Key: from, Set: Crowding}, to(excess))...),
		rs.R(why, slices.Concat(unknown, []rs.Expr{rs.Meter{Set: deviceRate, Key: from, Rate: newOfDevice, Burst: burstOfDevice}}, what, []rs.Expr{last})...),
		rs.R("too fast", append(slices.Clone(unknown), to(excess))...),
	}
}

// tell is for a second device of a server: netd is told of it, but not of each
// of its packets.
func tell() rs.Rule {
	return rs.R("netd lets it in", rs.Meter{Set: secondRate, Key: rs.Fields{rs.FieldSource}, Rate: newOfDevice, Burst: 4},
		rs.Limit{Rate: newOfAll, Burst: burstOfAll}, rs.Log{Group: LogGroup, Bytes: 28, Prefix: LogSecond})
}

// learnInbound is a server's new SPI, of a server that a device talks to. What
// is not learned is delivered all the same, but nobody looks whose it is.
func learnInbound() []rs.Rule {
	from := rs.Fields{rs.FieldSource}
	return []rs.Rule{
		rs.R("a new SPI", rs.In{Key: from, Set: servers}, rs.In{Key: from, Set: Crowding, Not: true},
			rs.Meter{Set: serverRate, Key: from, Rate: newOfServer, Burst: burstOfServer},
			rs.Learn{Set: Inbound, Key: spiIn, Counter: true}, to(delivery)),
		// Who forges the address of a server must not have each of its packets
		// sent into the LAN as many times as there are devices.
		rs.R("of several devices", rs.In{Key: from, Set: copied}, rs.Meter{Set: unknownRate, Key: from, Rate: unknownOfServer, Burst: unknownOfServer},
			rs.Vmap{Key: from, Map: copies}),
		rs.R("a flood", rs.In{Key: from, Set: copied}, drop),
	}
}

// overLimit drops what a device sends beyond its limits, and counts it.
func overLimit() rs.Chain {
	return rs.Chain{Name: excess, Rules: []rs.Rule{
		rs.R("beyond a device's limits", rs.Learn{Set: Excess, Key: rs.Fields{rs.FieldSource}, Counter: true}, drop),
	}}
}
