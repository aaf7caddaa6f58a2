package netd

import (
	"runtime/debug"
	"testing"
)

// The collector works again when the last time has ended, whichever that is.
func TestSpacious(t *testing.T) {
	before := debug.SetGCPercent(70)
	defer debug.SetGCPercent(before)
	percent := func() int {
		p := debug.SetGCPercent(70)
		debug.SetGCPercent(p)
		return p
	}
	var s space
	first, second := s.begin(), s.begin()
	first()
	first()
	if p := percent(); p != -1 {
		t.Errorf("GOGC is %d while one goes on", p)
	}
	second()
	if p := percent(); p != 70 {
		t.Errorf("GOGC is %d afterwards", p)
	}
}
