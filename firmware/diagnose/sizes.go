package diagnose

import (
	"net/netip"
	"time"
)

const (
	bigPacket    = 1200                   // bytes: what a path that is too narrow may lose; below the 1280 that IPv6 asks of any path
	answerWithin = time.Second            // after a packet, what comes back is taken for its answer
	alone        = 500 * time.Millisecond // a packet with another one closer behind it is not judged
	obeyWithin   = time.Second            // how long a device may take to send smaller ones
)

// sizing follows the packets of a tunnel. What they carry is encrypted, so a
// packet counts as answered when something comes back soon after it.
type sizing struct {
	Sizes
	bytes     uint64 // of the device's last packet, not answered yet; 0: there is none
	at        time.Duration
	firstLost time.Duration
	told      time.Duration // when MTU was told
	begun     bool
	first     time.Duration
}

func (f *watched) sized(p packet, in bool, at time.Duration) {
	s := &f.sizing
	if !s.begun {
		s.begun, s.first = true, at
	}
	switch {
	case !in:
		if at-s.at >= alone {
			s.lost()
		}
		s.bytes, s.at = p.bytes, at
		if s.MTU > 0 && p.whole && p.bytes > uint64(s.MTU) && at-s.told >= obeyWithin {
			s.Oversize++
		}
	case at-s.at > answerWithin:
		s.lost()
	default:
		s.answered()
	}
}

// lost is of the last packet, if nothing answered it yet.
func (s *sizing) lost() {
	if s.bytes >= bigPacket {
		if s.BigLost == 0 {
			s.firstLost, s.Lost = s.at, s.bytes
		}
		s.Big, s.BigLost, s.Lost = s.Big+1, s.BigLost+1, min(s.Lost, s.bytes)
	}
	s.bytes = 0
}

func (s *sizing) answered() {
	switch {
	case s.bytes >= bigPacket:
		s.Big, s.BigAnswered = s.Big+1, s.BigAnswered+1
	case s.bytes > 0:
		s.SmallAnswered++
	}
	s.Passed, s.bytes = max(s.Passed, s.bytes), 0
}

// tooBig is an ICMP error: fragmentation needed.
func (f *watched) tooBig(from netip.Addr, mtu int, at time.Duration) {
	if f.sizing.MTU == 0 {
		f.sizing.told = at
	}
	f.sizing.MTU, f.sizing.MTUFrom = mtu, from
}

// sizes is what is known by now.
func (f *watched) sizes(now time.Duration) Sizes {
	s := f.sizing // a copy: the answer may still come
	if now-s.at > answerWithin {
		s.lost()
	}
	if s.begun {
		s.Since = now - s.first
	}
	if s.BigLost > 0 {
		s.Losing = now - s.firstLost
	}
	return s.Sizes
}
