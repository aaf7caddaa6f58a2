// Package learn finds out to which device an inbound SPI belongs when several
// devices talk ESP to one IPsec server.
//
// Nothing in clear says it: the SPIs of an SA's two directions are unrelated
// (RFC 4301, 4.1), and what the peers agree on is encrypted. Until it is known
// the kernel copies such packets to each device of the server, so nothing is
// lost by not knowing, and a binding only ends the copying. It may be slow, and
// has to be sure.
//
// The evidence is who begins to talk together. A burst begins with a packet
// after Silence; the kernel tells of those alone. An outbound SPI explains a
// burst of an inbound one when a burst of its own began shortly before (a
// request) or after (an answer). An inbound SPI is bound to the device of the
// outbound SPI that explains its bursts and is explained by them, over many
// bursts that come at no regular time, when each other device has failed to
// explain some, and no other inbound SPI has a claim to that outbound SPI.
// Streams that beat alike explain each other's bursts: they are never bound.
//
// A bound SPI is doubted at once: a burst that another device explains and its
// own does not, or two that nobody explains, end the binding. And bindings of a
// server hold only while all who talk to it are settled: nobody then talks who
// could be missing the answers. Settled is an outbound SPI that an inbound one
// is bound with; with more than few devices, where copies are dear, also one
// whose device was ruled out for all that is bound.
//
// The package is pure: it has no clock and no goroutines.
package learn

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Silence is how long an SPI has been quiet when a packet begins a burst, Pause
// when one is a sample of a stream: see echo.
const (
	Silence = 300 * time.Millisecond
	Pause   = 40 * time.Millisecond
)

const (
	request = 300 * time.Millisecond // a request comes at most so long before what it explains
	answer  = 150 * time.Millisecond // an answer so long after
	memory  = 32                     // bursts that count
	horizon = time.Minute            // that rates are measured over
	alive   = 2 * time.Minute        // how long after its last burst an SPI counts for others
	renewal = 30 * time.Minute       // a binding that nothing confirmed for so long ends
	most    = 1024                   // SPIs of each direction of a server
)

// What a binding needs.
const (
	fewest     = 12 // bursts; doubled when a binding was wrong
	mostMissed = 12 // one in so many bursts may be missed
	surprise   = 12 // nats: how unlikely it is that unrelated bursts fell together so often
	bothWays   = 8  // bursts of the outbound SPI, three in four with the inbound one
	ruledOut   = 4  // bursts that each other device did not explain, and a third of all
	few        = 8  // devices that copies are cheap for
	mostSilent = 8  // samples in a row that a bound SPI's device lets go by in silence
)

// Kind is a kind of change.
type Kind int

// Kinds: of inbound SPIs, and of outbound ones.
const (
	Bind Kind = iota
	Unbind
	Settle
	Unsettle
)

// Change is a binding that begins or ends, or an outbound SPI that is settled
// or no longer.
type Change struct {
	Kind
	Server netip.Addr
	SPI    uint32
	Device netip.Addr
}

// Learner is what is known of all servers. Times are since any moment that
// stays the same.
type Learner struct {
	servers map[netip.Addr]*server
	pending []burst // ordered by when they can be judged
	changes []Change
}

// burst waits until what may explain it has come.
type burst struct {
	due, at time.Duration
	server  netip.Addr
	spi     uint32
	inbound bool
	what    what
}

// what is judged: a burst, a sample of a stream, or the first packet of an SPI.
type what int

const (
	begun what = iota
	sampled
	first
)

type server struct {
	devices []netip.Addr
	in, out map[uint32]*spi
}

// spi is one SPI. The server chose the outbound ones (RFC 4301, 4.1), so no
// two devices have the same.
type spi struct {
	began  [4]time.Duration // its last bursts
	first  time.Duration
	rate   float64         // bursts in horizon, decaying
	times  []time.Duration // of its last packets after a Pause
	beside [][]uint32      // for the last bursts: SPIs of the other direction that explain it
	device netip.Addr      // of an outbound one: whose; of an inbound one: bound to
	// Of an inbound one.
	pair      uint32        // outbound SPI that it is bound with; 0 not known
	echoed    uint32        // outbound SPI that it was alike last
	strikes   int           // bursts in a row that its device did not explain
	silent    int           // samples in a row
	wrong     int           // bindings that ended in doubt
	confirmed time.Duration // the last evidence for the binding; 0 when there is none
	// Of an outbound one.
	settled bool
}

// New knows nothing.
func New() *Learner { return &Learner{servers: map[netip.Addr]*server{}} }

// Devices says who talks to a server now. Bindings of others end; a server of
// less than two needs no learning.
func (l *Learner) Devices(addr netip.Addr, devices []netip.Addr) {
	s := l.servers[addr]
	if s == nil {
		if len(devices) < 2 {
			return
		}
		s = &server{in: map[uint32]*spi{}, out: map[uint32]*spi{}}
		l.servers[addr] = s
	}
	s.devices = slices.Clone(devices)
	for _, n := range sorted(s.in) {
		if x := s.in[n]; x.device.IsValid() && (len(devices) < 2 || !slices.Contains(devices, x.device)) {
			l.unbind(addr, n, x)
		}
	}
	for _, n := range sorted(s.out) {
		if o := s.out[n]; len(devices) < 2 || !slices.Contains(devices, o.device) {
			l.unsettle(addr, n, o)
			delete(s.out, n)
		}
	}
	if len(devices) < 2 {
		delete(l.servers, addr)
	}
}

// Old tells of SPIs of a server that are not new now: they are no evidence by
// when they appear. Those of the server that were there while it had one device
// alone are that device's, its own as well.
func (l *Learner) Old(at time.Duration, addr netip.Addr, in []uint32, out map[uint32]netip.Addr, alone netip.Addr) {
	s := l.servers[addr]
	if s == nil {
		return
	}
	for _, n := range in {
		if s.in[n] == nil && len(s.in) < most {
			s.in[n] = &spi{first: at - alive}
			if slices.Contains(s.devices, alone) {
				s.in[n].device, s.in[n].confirmed = alone, at
				l.changes = append(l.changes, Change{Bind, addr, n, alone})
			}
		}
	}
	for n, d := range out {
		if s.out[n] == nil && len(s.out) < most && slices.Contains(s.devices, d) {
			s.out[n] = &spi{first: at - alive, device: d}
			if d == alone {
				l.settle(addr, n, s.out[n])
			}
		}
	}
}

// Adopt takes over what is in force, a Bind or a Settle; false when nobody of
// that name talks to the server any more.
func (l *Learner) Adopt(at time.Duration, c Change) bool {
	s := l.servers[c.Server]
	if s == nil || !slices.Contains(s.devices, c.Device) {
		return false
	}
	if c.Kind == Settle {
		s.out[c.SPI] = &spi{device: c.Device, first: at - alive, settled: true}
	} else {
		s.in[c.SPI] = &spi{device: c.Device, first: at - alive, confirmed: at}
	}
	return true
}

// Unanswered tells of a sample of a bound SPI whose device did not talk in the
// burst. A device that only listens gets its packets as copies anyway.
func (l *Learner) Unanswered(addr netip.Addr, n uint32) {
	s := l.servers[addr]
	if s == nil || s.in[n] == nil || !s.in[n].device.IsValid() {
		return
	}
	x := s.in[n]
	if x.silent++; x.silent >= mostSilent {
		x.wrong++
		l.unbind(addr, n, x)
	}
}

// In tells of a server's packet that begins a burst, or is a sample.
func (l *Learner) In(at time.Duration, addr netip.Addr, n uint32, begins bool) {
	if s := l.servers[addr]; s != nil {
		if x := note(s.in, n, at, begins); x != nil {
			if x.first == at {
				l.wait(burst{at + 2*window, at, addr, n, true, first})
			}
			if begins {
				l.wait(burst{at + answer, at, addr, n, true, begun})
			} else {
				l.wait(burst{at + answer, at, addr, n, true, sampled})
			}
		}
	}
}

// Out tells of a device's.
func (l *Learner) Out(at time.Duration, addr, device netip.Addr, n uint32, begins bool) {
	s := l.servers[addr]
	if s == nil || !slices.Contains(s.devices, device) {
		return
	}
	if x := s.out[n]; x != nil && x.device != device { // an SPI that another device showed first
		return
	}
	if x := note(s.out, n, at, begins); x != nil {
		x.device = device
		if begins {
			l.wait(burst{at + request, at, addr, n, false, begun})
		}
	}
}

// note remembers a packet; nil when there are too many SPIs.
func note(m map[uint32]*spi, n uint32, at time.Duration, begins bool) *spi {
	x := m[n]
	if x == nil {
		if len(m) >= most && !forgetOldest(m) {
			return nil
		}
		x = &spi{first: at}
		m[n] = x
	}
	if x.times = append(x.times, at); len(x.times) > 2*samples {
		x.times = slices.Delete(x.times, 0, samples/2)
	}
	if !begins {
		return x
	}
	x.rate = x.rate*math.Exp(-float64(at-x.began[0])/float64(horizon)) + 1
	copy(x.began[1:], x.began[:])
	x.began[0] = at
	return x
}

// forgetOldest makes room; what is bound stays.
func forgetOldest(m map[uint32]*spi) bool {
	var old uint32
	for n, x := range m {
		if x.confirmed == 0 && !x.settled && (m[old] == nil || cmp.Or(cmp.Compare(x.began[0], m[old].began[0]), cmp.Compare(n, old)) < 0) {
			old = n
		}
	}
	_, ok := m[old]
	delete(m, old)
	return ok
}

func (l *Learner) wait(b burst) {
	i, _ := slices.BinarySearchFunc(l.pending, b, func(x, y burst) int {
		return cmp.Or(cmp.Compare(x.due, y.due), -1) // behind what is due at the same time
	})
	l.pending = slices.Insert(l.pending, i, b)
}

// Next is when Advance has something to do; false when never.
func (l *Learner) Next() (time.Duration, bool) {
	if len(l.pending) == 0 {
		return 0, false
	}
	return l.pending[0].due, true
}

// Advance judges what can be judged by now, and gives what changed.
func (l *Learner) Advance(now time.Duration) []Change {
	n := 0
	for ; n < len(l.pending) && l.pending[n].due <= now; n++ {
		l.judge(l.pending[n])
	}
	l.pending = slices.Delete(l.pending, 0, n)
	changes := l.changes
	l.changes = nil
	return changes
}

func (l *Learner) judge(b burst) {
	s := l.servers[b.server]
	if s == nil {
		return
	}
	same, other := s.out, s.in
	before, after := answer, request
	if b.inbound {
		same, other, before, after = s.in, s.out, request, answer
	}
	x := same[b.spi]
	if x == nil {
		return
	}
	if b.what == first {
		l.fresh(b, s, x)
		return
	}
	if b.inbound && !x.device.IsValid() {
		l.echo(b, s, x)
	}
	if b.what == sampled {
		return
	}
	var beside []uint32
	for _, n := range sorted(other) {
		if other[n].beganIn(b.at-before, b.at+after) {
			beside = append(beside, n)
		}
	}
	regular := x.regular(b.at)
	if !regular {
		x.beside = append(x.beside, beside)
		x.beside = x.beside[max(0, len(x.beside)-memory):]
	}
	switch {
	case !b.inbound:
		if !x.settled && len(s.devices) > few && s.cleared(x.device) {
			l.settle(b.server, b.spi, x)
		}
	case x.device.IsValid():
		l.doubt(b, s, x, beside, !regular)
	default:
		l.bind(b, s, x)
	}
}

func (x *spi) beganIn(from, to time.Duration) bool {
	for _, t := range x.began {
		if t != 0 && t >= from && t <= to {
			return true
		}
	}
	return false
}

// regular tells whether the burst at a moment came after the same time as one
// of those before: a beat tells nothing about who else beats so.
func (x *spi) regular(at time.Duration) bool {
	i := slices.Index(x.began[:], at)
	if i < 0 || i+1 >= len(x.began) || x.began[i+1] == 0 {
		return true // the first, or so many since that they were forgotten
	}
	gap := at - x.began[i+1]
	for j := i + 1; j+1 < len(x.began) && x.began[j+1] != 0; j++ {
		if d := gap - (x.began[j] - x.began[j+1]); d.Abs() < gap/10+20*time.Millisecond {
			return true
		}
	}
	return false
}

// chance is how likely an unrelated moment has a burst beside it.
func (x *spi) chance(now time.Duration) float64 {
	span := min(horizon, max(now-x.first, time.Second))
	return min(1, x.rate*float64(request+answer)/float64(span))
}

// count tells in how many of the bursts an SPI was beside it.
func (x *spi) count(n uint32) (hits int) {
	for _, b := range x.beside {
		if slices.Contains(b, n) {
			hits++
		}
	}
	return hits
}
