package passthrough

import (
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

// How the device is known that a packet of the server goes to.
const (
	exact  = "exact"       // ports, call IDs or IKE's SPI name it
	only   = "only device" // nothing names it; no other device talks to the server
	copied = "copied"      // nothing names it; every device of the server gets a copy
	// nothing names it; who begins to talk together left no other choice, see package learn
	evidence = "evidence"
)

// IdleAfter is how long a connection of a tunnel stays "up" without a packet:
// two intervals of what PPTP, L2TP and NAT-T send on a quiet tunnel, a minute
// at most (RFC 2637 3.1.4, RFC 2661 5.5, RFC 3948 4).
const IdleAfter = 2 * time.Minute

// Timeouts are conntrack's: what an entry's time-out is set to by a packet, so
// that what is missing from it is the time since. 0 is not known.
type Timeouts struct {
	TCPEstablished time.Duration
	TCPShort       time.Duration // of an established connection that waits for an acknowledgement
	UDP, UDPStream time.Duration
	GRE, GREStream time.Duration
	Generic        time.Duration // protocols that conntrack knows no more of than their number
}

// States of TCP, as conntrack numbers them.
const (
	synSent     conntrack.TCPState = 1
	synRecv     conntrack.TCPState = 2
	established conntrack.TCPState = 3
	synSent2    conntrack.TCPState = 9 // both ends called at once
)

// last is the time since the entry's last packet, nil when it can't be told:
// in other states of TCP, and in the flowtable, which holds the time-out up.
func (t Timeouts) last(e *conntrack.Entry) *time.Duration {
	var full time.Duration
	switch e.Protocol {
	case tcp:
		// Below the short one, which of the two was set is not known.
		if e.TCPState == established && e.Timeout > t.TCPShort {
			full = t.TCPEstablished
		}
	case udp:
		full = stream(e, t.UDP, t.UDPStream)
	case gre:
		full = stream(e, t.GRE, t.GREStream)
	default:
		full = t.Generic
	}
	if full == 0 || e.Timeout <= 0 || e.Timeout > full || e.Offloaded() {
		return nil
	}
	return seconds(full - e.Timeout)
}

// stream picks the time-out that the last packet set: the kernel marks an entry
// assured as it first sets the longer one.
func stream(e *conntrack.Entry, one, both time.Duration) time.Duration {
	if e.Status&conntrack.Assured != 0 {
		return both
	}
	return one
}

func seconds(d time.Duration) *time.Duration {
	d = max(0, d).Truncate(time.Second)
	return &d
}

// answered tells whether anything came back.
func answered(e *conntrack.Entry) bool {
	if e.Protocol == tcp {
		return e.TCPState != synSent && e.TCPState != synRecv && e.TCPState != synSent2
	}
	return e.Status&conntrack.SeenReply != 0
}

// States of a tunnel's connection. Learning is up for a device that gets copies
// of what the server sends, until it is known which of that is its own.
const (
	negotiating = "negotiating"
	learning    = "learning"
	up          = "up"
	idle        = "idle"
)

// state is what a connection of a tunnel is in.
func state(answered bool, last *time.Duration) string {
	switch {
	case last != nil && *last > IdleAfter:
		return idle
	case !answered:
		return negotiating
	}
	return up
}

// owner tells how the device of a tracked connection is known: protocols
// without ports have only addresses.
func owner(e *conntrack.Entry) string {
	switch {
	case e.Protocol == tcp, e.Protocol == udp, e.Protocol == gre && (e.Orig.SrcPort != 0 || e.Orig.DstPort != 0):
		return exact
	}
	return only
}
