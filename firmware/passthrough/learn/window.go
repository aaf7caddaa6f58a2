package learn

import "time"

// Keys change on both ways at once: a device that has a new SA sends by a new
// outbound SPI, and its server by a new inbound one. When just one of each
// appears, they are a pair.

// window is how long around them nothing else may appear.
const window = 500 * time.Millisecond

// fresh looks around an inbound SPI's first packet.
func (l *Learner) fresh(b burst, s *server, x *spi) {
	if x.device.IsValid() {
		return
	}
	pair, ok := only(s.out, x.first)
	if !ok {
		return
	}
	o := s.out[pair]
	if o.first < x.first-request || o.first > x.first+answer {
		return
	}
	if n, ok := only(s.in, x.first); !ok || n != b.spi {
		return
	}
	if n, ok := only(s.in, o.first); !ok || n != b.spi {
		return
	}
	if n, ok := only(s.out, o.first); ok && n == pair {
		l.bound(b, x, o, pair)
	}
}

// only is the only SPI that appeared around a moment.
func only(m map[uint32]*spi, at time.Duration) (found uint32, ok bool) {
	for n, x := range m {
		if (x.first - at).Abs() <= window {
			if ok {
				return 0, false
			}
			found, ok = n, true
		}
	}
	return found, ok
}
