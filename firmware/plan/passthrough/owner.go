package passthrough

import (
	"time"

	owners "github.com/culvert-fw/culvert/firmware/passthrough/learn"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// A server's ESP that is copied to its devices goes to one alone as soon as
// netd has learned whose the SPI is, see package learn. That may be wrong, so
// the kernel believes it only while nothing speaks against it:
//
//   - The packet that begins a burst always goes to all, and netd is told.
//   - In the burst the device has to have talked since, and gets credit packets
//     for each that it sends.
//   - Nobody talks to the server by an SPI that is not settled: who misses
//     answers asks again, and then all is copied.

// Sets in table ip that netd reads and writes, and those that it is told by.
const (
	Bound   = "bound"   // server . inbound SPI : device
	Settled = "settled" // server . outbound SPI
	Copies  = "copies_sent"
	talking = "talking" // server . device, until the next burst or talkTime
	spent   = "spent"   // server . device, how much of its credit
	doubted = "doubted" // servers that somebody unsettled talks to
	heard   = "heard"   // server . inbound SPI, in the burst
	said    = "said"    // server . outbound SPI, in the burst
	sampled = "sampled" // server . SPI of either direction: not a sample of its stream
	// Chains.
	owner    = "owner"
	begins   = "begins"
	alone    = "alone"
	silent   = "silent"
	everyone = "everyone"
	told     = "told"
)

// Prefixes of what netd is told of in LogGroup: the packet that begins a burst
// of ESP, from a server and from a device; samples of streams that nobody knows
// the owner of; a further device of a server; AH,
// which was refused.
const (
	LogIn     = "in"
	LogInToo  = "in+"
	LogSilent = "in-" // of a stream that the device it is bound to lets go by
	LogOutToo = "out+"
	LogOut    = "out"
	LogSecond = "second"
	LogAH     = "ah"
)

const (
	talkTime = time.Second
	credit   = 2
	told1s   = 200 // packets of each kind that netd is told of in a second
)

var (
	spiIn  = rs.Fields{rs.FieldSource, rs.FieldSPI}
	spiOut = rs.Fields{rs.FieldDest, rs.FieldSPI}
)

// ownerSets are learned.
func (n Network) ownerSets() []rs.Set {
	addr, size := rs.IPv4Addr, n.limit()
	set := func(name string, timeout time.Duration, key ...rs.Type) rs.Set {
		return rs.Set{Name: name, Key: key, Learned: true, Timeout: timeout, Size: size}
	}
	bound := set(Bound, cookieTimeout, addr, addr)
	bound.Data = []rs.Type{addr}
	return []rs.Set{
		bound, set(Settled, cookieTimeout, addr, addr),
		set(talking, talkTime, addr, addr), set(spent, talkTime, addr, addr), set(doubted, talkTime, addr),
		set(heard, owners.Silence, addr, addr), set(said, owners.Silence, addr, addr), set(sampled, owners.Pause, addr, addr),
		set(Copies, cookieTimeout, addr),
	}
}

// toOwner is what delivery begins with while servers are shared.
func (n Network) toOwner() []rs.Rule {
	if len(n.Shared) == 0 {
		return nil
	}
	return []rs.Rule{rs.R("of several devices", rs.In{Key: rs.Fields{rs.FieldSource}, Set: copied}, to(owner))}
}

// hear is the same for what devices send.
func (n Network) hear() []rs.Rule {
	if len(n.Shared) == 0 {
		return nil
	}
	return []rs.Rule{rs.R("of several devices", rs.In{Key: rs.Fields{rs.FieldDest}, Set: copied}, rs.Verdict{Kind: rs.Jump, Chain: told})}
}

// ownerChains deliver to one of several devices.
func (n Network) ownerChains() []rs.Chain {
	server := rs.Fields{rs.FieldSource}
	toBound := rs.SetDestFrom{Key: spiIn, Map: Bound}
	device := rs.Fields{rs.FieldSource, rs.FieldDest} // once the destination is written
	sender := rs.Fields{rs.FieldDest, rs.FieldSource}
	back := rs.SetDest{Addr: n.WAN}
	limit := rs.Limit{Rate: told1s, Burst: told1s}
	tell := func(prefix string) rs.Log { return rs.Log{Group: LogGroup, Bytes: 68, Prefix: prefix} }
	return []rs.Chain{
		{Name: owner, Rules: []rs.Rule{
			rs.R("in a burst, whose is known", rs.In{Key: spiIn, Set: heard}, rs.In{Key: server, Set: doubted, Not: true}, toBound,
				rs.Learn{Set: heard, Key: spiIn}, to(alone)),
			rs.R("a burst begins", rs.In{Key: spiIn, Set: heard, Not: true}, rs.Verdict{Kind: rs.Jump, Chain: begins}),
			rs.R("it lasts", rs.Learn{Set: heard, Key: spiIn}),
			rs.R("nobody knows", to(everyone)),
		}},
		{Name: begins, Rules: []rs.Rule{
			rs.R("netd learns", limit, rs.Learn{Set: sampled, Key: spiIn}, tell(LogIn)),
			rs.R("the device has to talk again", toBound, rs.Forget{Set: talking, Key: device}, back),
		}},
		{Name: alone, Rules: []rs.Rule{
			rs.R("the device is silent", rs.In{Key: device, Set: talking, Not: true}, to(silent)),
			rs.R("it answers too little", rs.Spend{Set: spent, Key: device, Packets: credit}, to(everyone)),
			rs.R("its own", rs.Notrack{}, accept),
		}},
		{Name: silent, Rules: []rs.Rule{
			rs.R("netd doubts", rs.In{Key: spiIn, Set: sampled, Not: true}, limit, rs.Learn{Set: sampled, Key: spiIn}, tell(LogSilent)),
			rs.R("", to(everyone)),
		}},
		{Name: everyone, Rules: []rs.Rule{
			rs.R("netd learns", rs.In{Key: spiIn, Set: sampled, Not: true}, limit, tell(LogInToo)),
			rs.R("a stream", rs.Learn{Set: sampled, Key: spiIn}),
			rs.R("counted", rs.Learn{Set: Copies, Key: server, Counter: true}),
			rs.R("to each", back, rs.Vmap{Key: server, Map: copies}),
		}},
		{Name: told, Rules: []rs.Rule{
			rs.R("talks", rs.Forget{Set: spent, Key: sender}, rs.Learn{Set: talking, Key: sender}),
			rs.R("may be missing answers", rs.In{Key: spiOut, Set: Settled, Not: true}, rs.Learn{Set: doubted, Key: rs.Fields{rs.FieldDest}}),
			rs.R("netd learns", rs.In{Key: spiOut, Set: said, Not: true}, limit, rs.Learn{Set: sampled, Key: spiOut}, tell(LogOut)),
			rs.R("the burst lasts", rs.Learn{Set: said, Key: spiOut}),
			rs.R("it is known", rs.In{Key: spiOut, Set: Settled}, rs.Verdict{Kind: rs.Return}),
			rs.R("netd learns", rs.In{Key: spiOut, Set: sampled, Not: true}, limit, tell(LogOutToo)),
			rs.R("a stream", rs.Learn{Set: sampled, Key: spiOut}),
		}},
	}
}
