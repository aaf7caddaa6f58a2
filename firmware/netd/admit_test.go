package netd

import (
	"net/netip"
	"testing"
)

// TestDoor: who knocks while others are let in waits, once, and not more than
// there is room for.
func TestDoor(t *testing.T) {
	o := door{wake: make(chan struct{}, 1)}
	at := func(i int) pair {
		return pair{server: netip.MustParseAddr("198.51.100.1"), device: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})}
	}
	for range 3 {
		for i := range doorMost + 10 {
			o.knock(at(i))
		}
	}
	<-o.wake
	w := o.take()
	if len(w) != doorMost || w[at(0)] != 3 || w[at(doorMost)] != 0 {
		t.Errorf("%d wait, the first for %d packets, one without room for %d; want %d, 3, 0", len(w), w[at(0)], w[at(doorMost)], doorMost)
	}
	select {
	case <-o.wake:
		t.Error("one batch wakes twice")
	default:
	}
	if len(o.take()) != 0 {
		t.Error("who was taken waits still")
	}
}
