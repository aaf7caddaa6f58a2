package netd

import (
	"runtime/debug"
	"sync"
)

// spacious lets netd take memory for speed, for a time: nothing is collected
// before GOMEMLIMIT is near. Several may overlap.
var spacious space

type space struct {
	mu      sync.Mutex
	users   int
	percent int // GOGC without users
}

// begin begins such a time; end ends it, once.
func (s *space) begin() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users == 1 {
		s.percent = debug.SetGCPercent(-1)
	}
	return sync.OnceFunc(s.end)
}

func (s *space) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		debug.SetGCPercent(s.percent)
	}
}
