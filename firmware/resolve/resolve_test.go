package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is what DNS says and who is in use, at the time that it is asked.
type world struct {
	answers map[string]string // addresses, or "!" with an error
	ttl     time.Duration
	slow    time.Duration
	used    map[netip.Addr]bool
	usedErr error
	asked   map[string]int
	asks    int // for who is in use
	now     int // lookups in progress
	most    int
	mu      sync.Mutex
	*Resolver
}

// run has a resolver in a bubble of virtual time; each check sees it at rest.
func run(t *testing.T, previous []State, check func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{answers: map[string]string{}, ttl: time.Minute, asked: map[string]int{}}
		w.Resolver = New(Options{Previous: previous, Emit: func() {}, Lookup: w.lookup, InUse: func() (map[netip.Addr]bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asks++
			return w.used, w.usedErr
		}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		w.mu.Lock()
		check(w)
		w.mu.Unlock()
		stop()
		<-done
	})
}

func (w *world) lookup(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	w.mu.Lock()
	w.asked[name]++
	w.now++
	w.most = max(w.most, w.now)
	slow := w.slow
	w.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now--
	text := w.answers[name]
	switch {
	case text == "!none":
		return nil, 0, fmt.Errorf("%w: there is no such name", ErrNone)
	case text == "" || text[0] == '!':
		return nil, 0, errors.New("no name server answers")
	}
	var out []netip.Addr
	for f := range strings.FieldsSeq(text) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out, w.ttl, nil
}

// after is what the names lead to, after d; the world is the test's until then.
func (w *world) after(d time.Duration) string {
	w.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	var b strings.Builder
	for _, n := range w.Names() {
		fmt.Fprint(&b, n.Name, n.Addrs, " ")
	}
	return strings.TrimSpace(b.String())
}

func TestTTL(t *testing.T) {
	run(t, nil, func(w *world) {
		w.answers["a.example"] = "192.0.2.2 192.0.2.1 192.0.2.2"
		w.SetNames([]string{"a.example"})
		if got := w.after(0); got != "a.example[192.0.2.1 192.0.2.2]" || w.asked["a.example"] != 1 {
			t.Fatalf("at once: %s, asked %v", got, w.asked)
		}
		for _, c := range []struct{ ttl, again time.Duration }{{time.Minute, time.Minute}, {time.Second, MinTTL}, {0, MinTTL}, {24 * time.Hour, MaxTTL}} {
			w.ttl = c.ttl
			w.Kick()
			w.after(0)
			n := w.asked["a.example"]
			w.after(c.again - time.Millisecond)
			if w.asked["a.example"] != n {
				t.Errorf("TTL %v: asked before %v", c.ttl, c.again)
			}
			w.after(time.Millisecond)
			if w.asked["a.example"] != n+1 {
				t.Errorf("TTL %v: not asked after %v", c.ttl, c.again)
			}
		}
		w.SetNames(nil)
		n := w.asked["a.example"]
		if got := w.after(48 * time.Hour); got != "" || w.asked["a.example"] != n {
			t.Errorf("a name that nobody wants: %q, asked %d times more", got, w.asked["a.example"]-n)
		}
	})
}

// TestRotation: an answer that rotates adds up, and what was not answered for
// long goes.
func TestRotation(t *testing.T) {
	run(t, nil, func(w *world) {
		w.SetNames([]string{"a.example"})
		for i := 1; i <= 3; i++ {
			w.answers["a.example"] = fmt.Sprintf("192.0.2.%d", i)
			w.Kick()
			w.after(0)
		}
		if got := w.after(Hold); got != "a.example[192.0.2.1 192.0.2.2 192.0.2.3]" {
			t.Errorf("within the time that they are held: %s", got)
		}
		if got := w.after(2 * time.Minute); got != "a.example[192.0.2.3]" {
			t.Errorf("after it: %s", got)
		}
		for i := range 3 * MaxAddrs {
			w.answers["a.example"] = fmt.Sprintf("198.51.100.%d", i)
			w.Kick()
			w.after(time.Second)
		}
		s := w.States()[0]
		if len(s.Addrs) != MaxAddrs || !slices.ContainsFunc(s.Addrs, func(a Addr) bool { return s.Current(a) && a.Addr.String() == "198.51.100.191" }) {
			t.Errorf("%d addresses: %v", len(s.Addrs), s)
		}
	})
}

// TestInUse: while a tunnel runs to it an address stays, whatever DNS says.
func TestInUse(t *testing.T) {
	run(t, nil, func(w *world) {
		w.answers["a.example"] = "192.0.2.1"
		w.SetNames([]string{"a.example"})
		w.after(0)
		w.answers["a.example"] = "192.0.2.2"
		w.used = map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true}
		if got := w.after(3 * Hold); got != "a.example[192.0.2.1 192.0.2.2]" {
			t.Errorf("in use: %s", got)
		}
		if most := int(2 * Hold / inUseAgain); w.asks > most {
			t.Errorf("asked %d times who is in use, more than %d", w.asks, most)
		}
		w.used, w.usedErr = nil, errors.New("cannot tell")
		if got := w.after(time.Hour); got != "a.example[192.0.2.1 192.0.2.2]" {
			t.Errorf("when nobody knows who is in use: %s", got)
		}
		w.usedErr = nil
		if got := w.after(2 * inUseAgain); got != "a.example[192.0.2.2]" {
			t.Errorf("after the tunnel: %s", got)
		}
	})
}

// TestFailure: who does not answer takes nothing away; who says that there is
// no such name does, in time.
func TestFailure(t *testing.T) {
	run(t, nil, func(w *world) {
		w.answers["a.example"] = "!"
		w.SetNames([]string{"a.example"})
		w.after(0)
		if s := w.States()[0]; s.Problem != "no name server answers" || s.Failing.IsZero() || !s.Resolved.IsZero() {
			t.Errorf("state %+v", s)
		}
		w.after(10 * time.Minute)
		n := w.asked["a.example"]
		if n < 8 || n > 12 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		if w.after(time.Hour); w.asked["a.example"]-n != int(time.Hour/MaxPause) {
			t.Errorf("asked %d times in an hour", w.asked["a.example"]-n)
		}
		w.answers["a.example"] = "192.0.2.1"
		w.Kick() // the WAN comes up
		if got := w.after(0); got != "a.example[192.0.2.1]" {
			t.Errorf("after the kick: %s", got)
		}
		if s := w.States()[0]; s.Problem != "" || !s.Failing.IsZero() || s.Resolved.IsZero() || s.Next.Sub(s.Resolved) != w.ttl {
			t.Errorf("state %+v", s)
		}
		w.answers["a.example"] = "!"
		if got := w.after(10 * Hold); got != "a.example[192.0.2.1]" {
			t.Errorf("while nobody answers: %s", got)
		}
		w.answers["a.example"] = "!none"
		w.Kick()
		if got := w.after(MaxPause); got != "a.example[]" {
			t.Errorf("no such name: %s", got)
		}
		w.answers["a.example"] = "0.0.0.0 127.0.0.1 224.0.0.1"
		if got := w.after(MaxPause); got != "a.example[]" || !strings.Contains(w.States()[0].Problem, "none that a server can have") {
			t.Errorf("addresses of no server: %s, %+v", got, w.States())
		}
	})
}

// TestManyNames: they don't wait for one that hangs, and are not asked all at once.
func TestManyNames(t *testing.T) {
	run(t, nil, func(w *world) {
		var names []string
		for i := range 20 {
			name := fmt.Sprintf("n%02d.example", i)
			names = append(names, name)
			w.answers[name] = "192.0.2.1"
		}
		w.slow = time.Second
		w.SetNames(names)
		if w.after(4500 * time.Millisecond); w.most != parallel || len(w.asked) != 20 {
			t.Errorf("%d lookups at a time, %d names asked", w.most, len(w.asked))
		}
		for _, s := range w.States()[:16] {
			if len(s.Addrs) != 1 {
				t.Errorf("%s has no answer", s.Name)
			}
		}
	})
}

func (w *world) refresh(ctx context.Context) bool {
	w.mu.Unlock()
	defer w.mu.Lock()
	return w.Refresh(ctx, "a.example")
}

func TestRefresh(t *testing.T) {
	run(t, nil, func(w *world) {
		w.answers["a.example"] = "192.0.2.1"
		w.SetNames([]string{"a.example"})
		w.after(0)
		w.answers["a.example"] = "192.0.2.2"
		w.slow = time.Second
		if !w.refresh(context.Background()) || !strings.Contains(w.after(0), "192.0.2.2") {
			t.Errorf("not refreshed: %s", w.after(0))
		}
		ctx, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer stop()
		if w.refresh(ctx) {
			t.Error("a slow answer was waited for")
		}
		if w.Refresh(context.Background(), "b.example") {
			t.Error("refreshed a name that nobody wants")
		}
	})
}

// TestPrevious: the next resolver goes on with what this one knew.
func TestPrevious(t *testing.T) {
	var states []State
	run(t, nil, func(w *world) {
		w.answers["a.example"] = "192.0.2.1"
		w.answers["b.example"] = "192.0.2.2"
		w.SetNames([]string{"a.example", "b.example"})
		w.after(0)
		states = w.States()
	})
	run(t, states, func(w *world) {
		if got := w.after(0); got != "a.example[192.0.2.1] b.example[192.0.2.2]" {
			t.Errorf("at the start: %s", got)
		}
		w.answers["a.example"] = "!"
		w.SetNames([]string{"a.example"})
		if got := w.after(time.Minute); got != "a.example[192.0.2.1]" {
			t.Errorf("later: %s", got)
		}
	})
}
