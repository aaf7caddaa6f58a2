// Package resolve keeps DNS names resolved: it asks again as the answers
// expire, and tells what the names lead to. It changes nothing.
//
// An address that left the answer is kept for Hold after the last answer that
// had it, and as long as tunnels run to it: answers that rotate must not end
// them, and a client may have asked earlier than the router did. A lookup that
// fails keeps everything; only DNS itself can say that an address is no more.
package resolve

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
)

// Bounds. An answer holds for its TTL, within limits: a short one must not make
// the router ask all the time, nor a long one keep it from a server that moved.
const (
	MinTTL     = 10 * time.Second
	MaxTTL     = time.Hour
	Hold       = 6 * time.Hour
	MinPause   = 2 * time.Second // after a failure; doubled by each further one
	MaxPause   = 5 * time.Minute
	MaxAddrs   = 64               // of a name
	inUseAgain = 10 * time.Minute // until it is asked again whether an address is in use
	parallel   = 4                // lookups at a time
)

// ErrNone is that DNS says there is no address: an answer, not a failure.
var ErrNone = errors.New("no address")

// Options of a Resolver; Lookup and Emit are required.
type Options struct {
	// Lookup gives all addresses of a name and how long they hold. An error
	// that wraps ErrNone is an answer.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, time.Duration, error)
	// InUse tells which addresses tunnels run to.
	InUse func() (map[netip.Addr]bool, error)
	// Emit is called after every lookup and every change of names, from one
	// goroutine.
	Emit     func()
	Previous []State // of the resolver before this one
	Log      *slog.Logger
}

// State is what is known of a name.
type State struct {
	Name     string
	Addrs    []Addr    // in order
	Resolved time.Time // of the last answer with an address; zero: there was none
	Next     time.Time // of the next lookup
	Problem  string    // of the last lookup, "" when it went well
	Failing  time.Time // since when; zero: the last lookup went well
}

// Addr is an address of a name.
type Addr struct {
	Addr     netip.Addr
	Answered time.Time // when an answer had it last
	used     time.Time // when it was seen in use last
}

// Current tells whether the last answer had it.
func (s *State) Current(a Addr) bool { return a.Answered.Equal(s.Resolved) }

// entry is a name that is wanted.
type entry struct {
	State
	busy  bool
	again bool // it is to be asked anew when the lookup in progress has ended
	fails int
	done  chan struct{} // closed at the end of the next lookup
}

// Resolver keeps names resolved. Make one with New.
type Resolver struct {
	o    Options
	wake chan struct{}

	mu    sync.Mutex
	names map[string]*entry
	old   map[string]State
}

// New makes a resolver that resolves nothing until SetNames.
func New(o Options) *Resolver {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Resolver{o: o, wake: make(chan struct{}, 1), names: map[string]*entry{}, old: map[string]State{}}
	for _, s := range o.Previous {
		r.old[s.Name] = s
	}
	return r
}

// SetNames says which names are wanted from now on.
func (r *Resolver) SetNames(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := len(names) == len(r.names)
	next := map[string]*entry{}
	for _, n := range names {
		e := r.names[n]
		if e == nil {
			same = false
			e = &entry{State: r.old[n], done: make(chan struct{})}
			e.Name, e.Next = n, time.Time{} // at once
		}
		next[n] = e
	}
	if !same {
		r.names, r.old = next, nil
		r.again()
	}
}

// Kick asks for all names at once: there may be an answer now.
func (r *Resolver) Kick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.names {
		e.Next, e.fails, e.again = time.Time{}, 0, e.busy
	}
	r.again()
}

// Refresh asks for a name now and waits for the answer; false when it is none
// that is wanted, or ctx ends before.
func (r *Resolver) Refresh(ctx context.Context, name string) bool {
	r.mu.Lock()
	e := r.names[name]
	if e == nil {
		r.mu.Unlock()
		return false
	}
	e.Next = time.Time{}
	done := e.done
	r.again()
	r.mu.Unlock()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// States is what is known of the names that are wanted, ordered by name; before
// the first SetNames of those of Options.Previous.
func (r *Resolver) States() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []State{}
	for _, s := range r.old {
		out = append(out, s)
	}
	for _, e := range r.names {
		s := e.State
		s.Addrs = slices.Clone(s.Addrs)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Names is States as facts.
func (r *Resolver) Names() []facts.Name {
	var out []facts.Name
	for _, s := range r.States() {
		out = append(out, facts.Name{Name: s.Name, Addrs: addresses(s.Addrs)})
	}
	return out
}

// again wakes Run.
func (r *Resolver) again() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run resolves until ctx ends.
func (r *Resolver) Run(ctx context.Context) error {
	var lookups sync.WaitGroup
	defer lookups.Wait()
	results := make(chan result)
	busy := 0
	for {
		due, wait := r.due(parallel - busy)
		for _, name := range due {
			busy++
			lookups.Go(func() {
				x := result{name: name}
				x.addrs, x.ttl, x.err = r.o.Lookup(ctx, name)
				select {
				case results <- x:
				case <-ctx.Done():
				}
			})
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case x := <-results:
			busy--
			r.take(x)
			r.o.Emit()
		case <-r.wake:
			r.o.Emit()
		case <-timer.C:
		}
		timer.Stop()
	}
}

// due are the names to look up now, at most n, and how long to wait for the
// next one.
func (r *Resolver) due(n int) (names []string, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	wait = MaxTTL
	var all []*entry
	for _, e := range r.names {
		switch {
		case e.busy:
		case e.Next.After(now):
			wait = min(wait, e.Next.Sub(now))
		default:
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *entry) int { // who has waited for longest
		if c := a.Next.Compare(b.Next); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
	for _, e := range all[:min(max(n, 0), len(all))] {
		e.busy = true
		names = append(names, e.Name)
	}
	return names, wait
}
