package resolve

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// result is how a lookup ended.
type result struct {
	name  string
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// take keeps what a lookup brought.
func (r *Resolver) take(x result) {
	used := r.inUse(x)
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.names[x.name]
	if e == nil || !e.busy {
		return // not wanted any more
	}
	now := time.Now()
	e.busy = false
	close(e.done)
	e.done = make(chan struct{})
	good := x.err == nil
	if good {
		x.addrs = slices.DeleteFunc(x.addrs, func(a netip.Addr) bool { return !a.Is4() || !a.IsGlobalUnicast() })
		if len(x.addrs) == 0 {
			x.err = errors.New("its addresses are none that a server can have")
		}
	}
	before := addresses(e.Addrs)
	if good || errors.Is(x.err, ErrNone) {
		e.answered(x.addrs, now, used)
	}
	e.reschedule(x, now)
	switch after := addresses(e.Addrs); {
	case !slices.Equal(before, after):
		r.o.Log.Info("a server's name leads elsewhere", "name", e.Name, "addresses", after, "ttl", x.ttl)
	case e.fails == 1:
		r.o.Log.Warn("a server's name does not resolve", "name", e.Name, "err", x.err, "kept", after)
	}
}

// answered puts in what an answer has, and takes out what was not answered for
// long and is not in use.
func (e *entry) answered(addrs []netip.Addr, now time.Time, used map[netip.Addr]bool) {
	for _, a := range addrs[:min(len(addrs), MaxAddrs)] {
		i := slices.IndexFunc(e.Addrs, func(o Addr) bool { return o.Addr == a })
		if i < 0 {
			i = len(e.Addrs)
			e.Addrs = append(e.Addrs, Addr{Addr: a})
		}
		e.Addrs[i].Answered = now
	}
	for i, a := range e.Addrs {
		if used[a.Addr] {
			e.Addrs[i].used = now
		}
	}
	e.Addrs = slices.DeleteFunc(e.Addrs, func(a Addr) bool { return now.Sub(a.Answered) > Hold && now.Sub(a.used) > inUseAgain })
	if len(e.Addrs) > MaxAddrs {
		slices.SortStableFunc(e.Addrs, func(a, b Addr) int { return b.Answered.Compare(a.Answered) })
		e.Addrs = e.Addrs[:MaxAddrs]
	}
	slices.SortFunc(e.Addrs, func(a, b Addr) int { return a.Addr.Compare(b.Addr) })
	if len(addrs) > 0 {
		e.Resolved = now
	}
}

// reschedule says when to ask again.
func (e *entry) reschedule(x result, now time.Time) {
	wait := min(max(x.ttl, MinTTL), MaxTTL)
	if x.err == nil {
		e.fails, e.Problem, e.Failing = 0, "", time.Time{}
	} else {
		wait = min(MinPause<<min(e.fails, 10), MaxPause)
		e.fails++
		e.Problem = x.err.Error()
		if e.Failing.IsZero() {
			e.Failing = now
		}
	}
	e.Next = now.Add(wait)
	if e.again {
		e.again, e.fails, e.Next = false, 0, time.Time{}
	}
}

func addresses(all []Addr) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, a.Addr)
	}
	return out
}

// inUse asks who is in use where an address would go for an answer.
func (r *Resolver) inUse(x result) map[netip.Addr]bool {
	if r.o.InUse == nil || x.err != nil && !errors.Is(x.err, ErrNone) || !r.leaving(x) {
		return nil
	}
	used, err := r.o.InUse()
	if err == nil {
		return used
	}
	r.o.Log.Error("which servers tunnels run to", "err", err)
	used = map[netip.Addr]bool{} // nobody goes while it is not known
	for _, s := range r.States() {
		for _, a := range s.Addrs {
			used[a.Addr] = true
		}
	}
	return used
}

// leaving tells whether an address is not in the answer, was not for long, and
// was not seen in use lately.
func (r *Resolver) leaving(x result) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.names[x.name]
	now := time.Now()
	return e != nil && slices.ContainsFunc(e.Addrs, func(a Addr) bool {
		return now.Sub(a.Answered) > Hold && now.Sub(a.used) > inUseAgain && !slices.Contains(x.addrs, a.Addr)
	})
}
