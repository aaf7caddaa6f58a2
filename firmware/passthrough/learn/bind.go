package learn

import (
	"maps"
	"math"
	"net/netip"
	"slices"
)

// bind binds an inbound SPI when the evidence is complete.
func (l *Learner) bind(b burst, s *server, x *spi) {
	n := len(x.beside)
	if n < min(fewest<<x.wrong, memory) {
		return
	}
	pair, hits := best(x)
	o := s.out[pair]
	switch {
	case o == nil || n-hits > n/mostMissed:
	case float64(hits)*-math.Log(o.chance(b.at)) < surprise:
	case len(o.beside) < bothWays || o.count(b.spi)*4 < len(o.beside)*3:
	case !s.othersOut(x, o.device), s.claimed(b, pair):
	default:
		l.bound(b, x, o, pair)
	}
}

// bound binds an inbound SPI to the device of an outbound one.
func (l *Learner) bound(b burst, x, o *spi, pair uint32) {
	x.device, x.pair, x.strikes, x.silent, x.confirmed, x.echoed = o.device, pair, 0, 0, b.at, 0
	l.changes = append(l.changes, Change{Bind, b.server, b.spi, o.device})
	l.settle(b.server, pair, o)
}

// best is the SPI that explains the most bursts.
func best(x *spi) (pair uint32, hits int) {
	counts := map[uint32]int{}
	for _, list := range x.beside {
		for _, n := range list {
			counts[n]++
		}
	}
	for _, n := range slices.Sorted(maps.Keys(counts)) {
		if counts[n] > hits {
			pair, hits = n, counts[n]
		}
	}
	return pair, hits
}

// othersOut tells whether each device but one failed to explain bursts.
func (s *server) othersOut(x *spi, owner netip.Addr) bool {
	for _, d := range s.devices {
		if d != owner && !s.isOut(x, d) {
			return false
		}
	}
	return true
}

// isOut tells whether a device failed to explain bursts of an inbound SPI.
func (s *server) isOut(x *spi, device netip.Addr) bool {
	failed := 0
	for _, list := range x.beside {
		if !s.any(list, device) {
			failed++
		}
	}
	return failed >= max(ruledOut, len(x.beside)/3)
}

// cleared tells whether a device is ruled out for all that is bound to others.
func (s *server) cleared(device netip.Addr) bool {
	for _, x := range s.in {
		if x.device.IsValid() && x.device != device && !s.isOut(x, device) {
			return false
		}
	}
	return true
}

// any tells whether one of these outbound SPIs is the device's.
func (s *server) any(list []uint32, device netip.Addr) bool {
	return slices.ContainsFunc(list, func(n uint32) bool { return s.out[n] != nil && s.out[n].device == device })
}

// claimed tells whether another inbound SPI that is alive goes with the
// outbound one too: each belongs to one.
func (s *server) claimed(b burst, pair uint32) bool {
	for n, x := range s.in {
		if n == b.spi || b.at-x.began[0] > alive {
			continue
		}
		if x.pair == pair || x.pair == 0 && len(x.beside) >= ruledOut && x.count(pair)*2 >= len(x.beside) {
			return true
		}
	}
	return false
}

// doubt looks at a burst of a bound SPI.
func (l *Learner) doubt(b burst, s *server, x *spi, beside []uint32, telling bool) {
	switch {
	case s.any(beside, x.device):
		x.strikes, x.silent = 0, 0
		if telling {
			x.confirmed = b.at
		}
		if i := slices.IndexFunc(beside, func(n uint32) bool { return s.out[n].device == x.device }); x.pair == 0 {
			x.pair = beside[i] // it was taken over
		}
	case len(beside) > 0: // others explain it, its device does not
		x.strikes = 2
	default:
		x.strikes++
	}
	if x.strikes >= 2 || b.at-x.confirmed > renewal {
		if x.strikes >= 2 {
			x.wrong++
		}
		l.unbind(b.server, b.spi, x)
	}
}

// unbind ends a binding; evidence has to come anew, also for the device's other
// SPIs.
func (l *Learner) unbind(addr netip.Addr, n uint32, x *spi) {
	s := l.servers[addr]
	for _, m := range sorted(s.out) {
		if o := s.out[m]; o.device == x.device {
			l.unsettle(addr, m, o)
		}
	}
	l.changes = append(l.changes, Change{Unbind, addr, n, x.device})
	x.device, x.pair, x.strikes, x.beside, x.confirmed = netip.Addr{}, 0, 0, nil, 0
}

func (l *Learner) settle(addr netip.Addr, n uint32, o *spi) {
	if !o.settled {
		o.settled = true
		l.changes = append(l.changes, Change{Settle, addr, n, o.device})
	}
}

func (l *Learner) unsettle(addr netip.Addr, n uint32, o *spi) {
	if o.settled {
		o.settled = false
		l.changes = append(l.changes, Change{Unsettle, addr, n, o.device})
	}
}

// sorted makes what is done to a map's entries the same each time.
func sorted(m map[uint32]*spi) []uint32 { return slices.Sorted(maps.Keys(m)) }
