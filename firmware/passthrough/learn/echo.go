package learn

import (
	"math"
	"slices"
	"time"
)

// Streams without pauses: echoes.
//
// A stream that asks and is answered has the same irregularities both ways: the
// timer of who asks is late by a millisecond now and then, and so is each
// answer. Streams of the same beat have irregularities of their own, whatever
// their phases. So an outbound SPI is an inbound one's when the times between
// their packets vary together, and those of no other device's SPI do.

const (
	samples  = 40                     // packets of an SPI that are compared
	matched  = 24                     // of them have to be left to compare
	alike    = 0.6                    // correlation that a pair needs, twice: four times its error
	unalike  = 0.4                    // that no other device's SPI has
	liveness = 200 * time.Microsecond // deviation that is more than that of clocks
)

// echo looks whether an inbound SPI's packets are answers or requests of one
// outbound SPI's; twice the same, of packets that are others, binds it.
func (l *Learner) echo(b burst, s *server, x *spi) {
	if len(x.times) < samples {
		return
	}
	var pair uint32
	most := 0.0
	for _, n := range sorted(s.out) {
		if r := correlation(x.times, s.out[n].times); r > most {
			pair, most = n, r
		}
	}
	was, times := x.echoed, x.times
	x.echoed, x.times = 0, nil
	o := s.out[pair]
	if o == nil || most < alike || s.rivals(times, pair) || s.claimed(b, pair) {
		return
	}
	if x.echoed = pair; was == pair {
		l.bound(b, x, o, pair)
	}
}

// rivals tells whether SPIs of two devices vary with the inbound one.
func (s *server) rivals(times []time.Duration, pair uint32) bool {
	for n, o := range s.out {
		if n != pair && o.device != s.out[pair].device && correlation(times, o.times) > unalike {
			return true
		}
	}
	return false
}

// correlation is that of the times between packets of a and those of b that
// answer them, or that they answer; 0 when too few do.
func correlation(a, b []time.Duration) float64 {
	return max(follows(a, b, request), follows(b, a, answer))
}

// follows is the correlation when packets of a come at most so long after ones
// of b.
func follows(a, b []time.Duration, most time.Duration) float64 {
	var x, y []float64
	j, last := 0, -1 // b[j] is the first after a[i]; b[last] went with the packet before
	var at time.Duration
	heard := 0
	for _, t := range a {
		for j < len(b) && b[j] <= t {
			j++
		}
		if len(b) == 0 || t < b[0] {
			continue
		}
		heard++
		k := j - 1
		if t-b[k] > most || k == last {
			last = -1
			continue
		}
		if last >= 0 && k == last+1 {
			x, y = append(x, float64(t-at)), append(y, float64(b[k]-b[last]))
		}
		last, at = k, t
	}
	if len(x)*5 < heard*4 {
		return 0
	}
	x, y = trim(x, y)
	return pearson(x, y)
}

// trim leaves out intervals that stand out: what makes all streams wait makes
// strangers alike.
func trim(x, y []float64) (p, q []float64) {
	mx, dx := middle(x)
	my, dy := middle(y)
	for i := range x {
		if math.Abs(x[i]-mx) <= 5*dx && math.Abs(y[i]-my) <= 5*dy {
			p, q = append(p, x[i]), append(q, y[i])
		}
	}
	return p, q
}

// middle is the median, and the median of how far from it values are.
func middle(x []float64) (median, deviation float64) {
	if len(x) == 0 {
		return 0, 0
	}
	s := slices.Sorted(slices.Values(x))
	median = s[len(s)/2]
	for i, v := range s {
		s[i] = math.Abs(v - median)
	}
	slices.Sort(s)
	return median, s[len(s)/2]
}

func pearson(x, y []float64) float64 {
	n := float64(len(x))
	if len(x) < matched {
		return 0
	}
	var sx, sy, xx, yy, xy float64
	for i := range x {
		sx, sy = sx+x[i], sy+y[i]
	}
	for i := range x {
		a, b := x[i]-sx/n, y[i]-sy/n
		xx, yy, xy = xx+a*a, yy+b*b, xy+a*b
	}
	if least := n * float64(liveness) * float64(liveness); xx < least || yy < least {
		return 0
	}
	return xy / math.Sqrt(xx*yy)
}
