package ntp

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beevik/ntp"
)

var build = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// world is a network of time servers and a clock that is off by error.
type world struct {
	mu     sync.Mutex // the client's callbacks take it, the test lets it go in pass
	truth  func() time.Time
	off    time.Duration
	sets   []time.Duration // by how much
	slews  []time.Duration
	saves  int
	syncs  int
	asked  []string
	at     []time.Time
	answer func(server string) (*ntp.Response, error)
	names  map[string][]netip.Addr
}

func newWorld() *world {
	start := time.Now()
	w := &world{truth: func() time.Time { return build.Add(time.Since(start)) }}
	w.answer = func(string) (*ntp.Response, error) { return w.good(), nil }
	return w
}

func (w *world) good() *ntp.Response {
	return &ntp.Response{Time: w.truth(), ReferenceTime: w.truth().Add(-time.Minute), Stratum: 2}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.truth().Add(w.off)
}

// pass lets the client run for a time, or as far as it comes.
func (w *world) pass(d time.Duration) {
	w.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
}

func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.names[host]; a != nil {
		return a, nil
	}
	return nil, errors.New("no such host")
}

func (w *world) client(t *testing.T, servers ...string) *Client {
	t.Helper()
	c, err := New(Options{
		Servers: servers, NotBefore: build.AddDate(0, -1, 0), Resolver: w, Now: w.now, Rand: rand.NewChaCha8([32]byte{1}),
		Set: func(at time.Time) error {
			by := at.Sub(w.now())
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sets = append(w.sets, by)
			w.off += by
			return nil
		},
		Slew: func(by time.Duration) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.slews = append(w.slews, by)
			w.off += by
			return nil
		},
		SaveLast: func(time.Time) { w.mu.Lock(); w.saves++; w.mu.Unlock() },
		OnSync:   func() { w.mu.Lock(); w.syncs++; w.mu.Unlock() },
		Query: func(_ context.Context, a netip.Addr) (*ntp.Response, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asked = append(w.asked, a.String())
			w.at = append(w.at, time.Now())
			return w.answer(a.String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bubble runs a client in a synctest bubble; the test looks at the world only
// while it waits.
func bubble(t *testing.T, w func() *world, servers []string, body func(t *testing.T, w *world, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		world := w()
		c := world.client(t, servers...)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		world.mu.Lock()
		world.pass(0)
		body(t, world, c)
		world.mu.Unlock()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

var one = []string{"192.0.2.1"}

func TestFirstIsStep(t *testing.T) {
	bubble(t, func() *world { w := newWorld(); w.off = -56 * 365 * 24 * time.Hour; return w }, one, func(t *testing.T, w *world, c *Client) {
		if len(w.sets) != 1 || w.off != 0 || !c.Synced() || w.syncs != 1 || w.saves != 1 {
			t.Fatalf("sets %v, off by %v, synced %v, OnSync %d, SaveLast %d", w.sets, w.off, c.Synced(), w.syncs, w.saves)
		}
		// A small error is slewed, a bigger one is a step.
		w.off = 200 * time.Millisecond
		w.pass(pollEvery * 5 / 4)
		if len(w.sets) != 1 || len(w.slews) == 0 || w.off != 0 {
			t.Errorf("sets %v slews %v, off by %v", w.sets, w.slews, w.off)
		}
		w.off = 2 * time.Second
		w.pass(pollEvery * 5 / 4)
		if len(w.sets) != 2 || w.off != 0 {
			t.Errorf("sets %v, off by %v", w.sets, w.off)
		}
		n := len(w.asked)
		w.pass(100 * pollEvery)
		if got := len(w.asked) - n; got < 85 || got > 115 {
			t.Errorf("%d queries in the time of 100 polls", got)
		}
		if w.syncs != 1 || w.saves < 4 || w.saves > 7 {
			t.Errorf("OnSync %d, SaveLast %d times in 28 hours", w.syncs, w.saves)
		}
	})
}

func TestBackoffAndKick(t *testing.T) {
	bubble(t, func() *world {
		w := newWorld()
		w.answer = func(string) (*ntp.Response, error) { return nil, errors.New("i/o timeout") }
		return w
	}, one, func(t *testing.T, w *world, c *Client) {
		w.pass(time.Hour)
		for i := 1; i < len(w.at); i++ {
			want := min(firstWait<<(i-1), pollEvery)
			if gap := w.at[i].Sub(w.at[i-1]); gap < want*7/8 || gap > want*9/8 {
				t.Errorf("query %d after %v, want about %v", i, gap, want)
			}
		}
		if c.Synced() || !strings.Contains(c.Status().Problem, "192.0.2.1: i/o timeout") {
			t.Errorf("status %+v", c.Status())
		}
		n := len(w.asked)
		w.answer = func(string) (*ntp.Response, error) { return w.good(), nil }
		c.Kick()
		w.pass(0)
		if len(w.asked) != n+1 || !c.Synced() || c.Status().Problem != "" {
			t.Errorf("after Kick: %d queries, status %+v", len(w.asked)-n, c.Status())
		}
		c.Kick() // the clock is right: no reason to ask
		w.pass(0)
		if len(w.asked) != n+1 {
			t.Error("Kick asks although the clock is right")
		}
	})
}

// TestFailing: since when no server gave the time, and why, until one does.
func TestFailing(t *testing.T) {
	bubble(t, newWorld, []string{"0.pool.example", "1.pool.example"}, func(t *testing.T, w *world, c *Client) {
		w.pass(10 * time.Minute)
		st := c.Status()
		if time.Since(st.Failing) != 10*time.Minute || !strings.Contains(st.Problem, "do not resolve") || !strings.Contains(st.Problem, "1.pool.example") {
			t.Errorf("nothing resolves: %+v", st)
		}
		w.names = map[string][]netip.Addr{"0.pool.example": {netip.MustParseAddr("192.0.2.1")}}
		c.Kick()
		w.pass(0)
		if st := c.Status(); !st.Synced || !st.Failing.IsZero() || st.Problem != "" {
			t.Errorf("it resolves: %+v", st)
		}
		w.answer = func(string) (*ntp.Response, error) { return nil, errors.New("i/o timeout") }
		w.pass(time.Hour)
		st = c.Status()
		if since := time.Since(st.Failing); !st.Synced || since < 40*time.Minute || since > 45*time.Minute || !strings.Contains(st.Problem, "no NTP server answers") {
			t.Errorf("no answers any more: %+v", st)
		}
		w.answer = func(string) (*ntp.Response, error) { return w.good(), nil }
		c.Kick() // not only before the first answer
		w.pass(0)
		if st := c.Status(); !st.Failing.IsZero() || st.Problem != "" {
			t.Errorf("they answer again: %+v", st)
		}
	})
}

func TestServersInTurn(t *testing.T) {
	bubble(t, func() *world {
		w := newWorld()
		w.names = map[string][]netip.Addr{"pool.example": {netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}}
		w.answer = func(s string) (*ntp.Response, error) {
			r := w.good()
			switch s {
			case "192.0.2.1":
				r.Stratum, r.KissCode = 0, "RATE"
			case "192.0.2.2":
				r.Leap = ntp.LeapNotInSync
			}
			return r, nil
		}
		return w
	}, []string{"192.0.2.1", "nowhere.example", "pool.example"}, func(t *testing.T, w *world, c *Client) {
		if got := strings.Join(w.asked, " "); got != "192.0.2.1 192.0.2.2 192.0.2.3" || c.Status().Server != "pool.example" {
			t.Errorf("asked %s, status %+v", got, c.Status())
		}
		w.pass(pollEvery * 9 / 8)
		if got := strings.Join(w.asked[3:], " "); got != "192.0.2.2 192.0.2.3" {
			t.Errorf("then asked %s, want the one that answered", got)
		}
		// 192.0.2.1 told us to go away: it is left alone for an hour.
		w.names = nil
		w.pass(20 * time.Minute)
		for _, a := range w.asked[3:] {
			if a == "192.0.2.1" {
				t.Error("asked a server that had sent RATE")
			}
		}
		c.SetServers([]string{"192.0.2.9"})
		w.pass(0)
		if got := w.asked[len(w.asked)-1]; got != "192.0.2.9" {
			t.Errorf("asked %s after SetServers", got)
		}
	})
}

func TestJumpNeedsTwo(t *testing.T) {
	bubble(t, newWorld, []string{"192.0.2.1", "192.0.2.2"}, func(t *testing.T, w *world, c *Client) {
		// One server goes mad: the other one does not confirm it.
		w.answer = func(s string) (*ntp.Response, error) {
			r := w.good()
			if s == "192.0.2.1" {
				r.Time, r.ReferenceTime = r.Time.Add(24*time.Hour), r.ReferenceTime.Add(24*time.Hour)
			}
			return r, nil
		}
		w.pass(10 * pollEvery)
		if len(w.sets) != 0 {
			t.Errorf("sets %v, want none", w.sets)
		}
		// Both do, each in its own way.
		w.answer = func(s string) (*ntp.Response, error) {
			r, d := w.good(), 48*time.Hour
			if s == "192.0.2.1" {
				d = 24 * time.Hour
			}
			r.Time, r.ReferenceTime = r.Time.Add(d), r.ReferenceTime.Add(d)
			return r, nil
		}
		w.pass(10 * pollEvery)
		if len(w.sets) != 0 {
			t.Errorf("sets %v, want none while they disagree", w.sets)
		}
		// Both say the same: the clock was wrong.
		w.answer = func(string) (*ntp.Response, error) { return w.good(), nil }
		w.off = 2 * time.Hour
		w.pass(pollEvery*9/8 + confirmWait*9/8)
		if len(w.sets) != 1 || w.off != 0 {
			t.Errorf("sets %v, off by %v", w.sets, w.off)
		}
	})
}

func TestRejects(t *testing.T) {
	for name, change := range map[string]func(*ntp.Response){
		"kiss of death":    func(r *ntp.Response) { r.Stratum = 0 },
		"stratum 16":       func(r *ntp.Response) { r.Stratum = 16 },
		"unsynchronised":   func(r *ntp.Response) { r.Leap = ntp.LeapNotInSync },
		"root distance":    func(r *ntp.Response) { r.RootDispersion = time.Minute },
		"stale":            func(r *ntp.Response) { r.ReferenceTime = r.Time.AddDate(0, 0, -3) },
		"before the build": func(r *ntp.Response) { r.Time = build.AddDate(-1, 0, 0); r.ReferenceTime = r.Time },
	} {
		bubble(t, func() *world {
			w := newWorld()
			w.off = -time.Hour
			w.answer = func(string) (*ntp.Response, error) { r := w.good(); change(r); return r, nil }
			return w
		}, one, func(t *testing.T, w *world, c *Client) {
			w.pass(time.Hour)
			if len(w.sets) != 0 || c.Synced() || c.Status().Problem == "" {
				t.Errorf("%s: sets %v, status %+v", name, w.sets, c.Status())
			}
		})
	}
}

func TestSetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.off = time.Hour
		c := w.client(t, one...)
		c.o.Set = func(time.Time) error { return errors.New("operation not permitted") }
		if c.round(t.Context()) || c.Synced() || !strings.Contains(c.Status().Problem, "not permitted") {
			t.Errorf("status %+v", c.Status())
		}
	})
}

func TestEra(t *testing.T) {
	notBefore := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	epoch := time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	// 2036-02-07 06:28:16 is second 0 of NTP's era 1.
	if got, want := inEra(epoch, notBefore), time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC); !got.Equal(want) {
		t.Errorf("second 0 is %v, want %v", got, want)
	}
	for _, same := range []time.Time{notBefore, notBefore.AddDate(5, 0, 0), notBefore.AddDate(-1, 0, 0)} {
		if got := inEra(same, notBefore); !got.Equal(same) {
			t.Errorf("%v becomes %v", same, got)
		}
	}
}

func TestRestore(t *testing.T) {
	y := func(n int) time.Time { return build.AddDate(n, 0, 0) }
	for name, c := range map[string]struct {
		now, stored, want time.Time // want zero: not set
	}{
		"no clock":               {time.Unix(3, 0), y(1), y(1)},
		"no clock, nothing kept": {time.Unix(3, 0), time.Time{}, build},
		"kept is older":          {time.Unix(3, 0), y(-1), build},
		"kept is damaged":        {time.Unix(3, 0), y(200), build},
		"clock is right":         {y(2), y(1), time.Time{}},
	} {
		var got time.Time
		did, err := Restore(c.now, c.stored, build, func(at time.Time) error { got = at; return nil })
		if err != nil || did == c.want.IsZero() || !got.Equal(c.want) {
			t.Errorf("%s: set to %v (%v, %v), want %v", name, got, did, err, c.want)
		}
	}
	// An image whose files are from 1970 does not make the stored time odd.
	if at, behind := After(time.Unix(3, 0), y(1), time.Unix(0, 0)); !behind || !at.Equal(y(1)) {
		t.Errorf("with an image of 1970: %v, want the stored time", at)
	}
	if at, _ := After(time.Unix(3, 0), time.Time{}, time.Time{}); at.Before(written) {
		t.Errorf("with nothing known: %v", at)
	}
}
