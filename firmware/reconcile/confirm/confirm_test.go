package confirm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// store is a Store in memory with the rules of the real one.
type store struct {
	states  map[int]string
	pending int
	full    bool
}

var errFull = errors.New("no space left on device")

func (s *store) Begin(*settings.Settings, string) (int, error) {
	if s.full {
		return 0, errFull
	}
	if s.pending != 0 {
		s.states[s.pending] = "rolled-back"
	}
	s.pending = len(s.states) + 1
	s.states[s.pending] = "pending"
	return s.pending, nil
}

func (s *store) Commit(c *settings.Settings, m string) (int, error) {
	n, err := s.Begin(c, m)
	if err == nil {
		err = s.Confirm(n)
	}
	return n, err
}

func (s *store) end(n int, state string) error {
	if n != s.pending || n == 0 {
		return fmt.Errorf("revision %d is not pending", n)
	}
	if s.full {
		return errFull
	}
	s.states[n], s.pending = state, 0
	return nil
}

func (s *store) Confirm(n int) error  { return s.end(n, "confirmed") }
func (s *store) Fail(n int) error     { return s.end(n, "failed") }
func (s *store) RollBack(n int) error { return s.end(n, "rolled-back") }

// router is a Committer with a kernel that knows one name.
type router struct {
	*Committer[string]
	t      *testing.T
	store  *store
	kernel string // the host name that was applied last
	broken string // a host name that the kernel refuses
	gone   []int
}

func start(t *testing.T) *router {
	r := &router{t: t, store: &store{states: map[int]string{1: "confirmed"}}}
	r.kernel = "one"
	r.Committer = New(Options[string]{
		Store: r.store, Confirmed: Revision{1, named("one")},
		Apply: func(_ context.Context, s *settings.Settings) error {
			if s.System.Hostname == r.broken {
				return errors.New("the kernel refuses")
			}
			r.kernel = s.System.Hostname
			return nil
		},
		RolledBack: func(gone []int, _ Revision) { r.gone = append(r.gone, gone...) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func named(host string) *settings.Settings {
	s := settings.Default()
	s.System.Hostname = host
	return s
}

func (r *router) commit(base int, host string, confirm time.Duration) (State, error) {
	r.t.Helper()
	s, _, err := r.Commit(r.t.Context(), base, named(host), "", confirm)
	return s, err
}

func (r *router) must(base int, host string, confirm time.Duration) State {
	r.t.Helper()
	s, err := r.commit(base, host, confirm)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// runs checks what runs, what the kernel has, and the states in the store.
func (r *router) runs(n int, host string, pending bool, states ...string) {
	r.t.Helper()
	s := r.State()
	if s.Running.N != n || s.Running.Settings.System.Hostname != host || s.Pending() != pending {
		r.t.Errorf("running %d %s pending %v, want %d %s %v", s.Running.N, s.Running.Settings.System.Hostname, s.Pending(), n, host, pending)
	}
	if r.kernel != host {
		r.t.Errorf("the kernel has %s, want %s", r.kernel, host)
	}
	var have []string
	for i := range len(r.store.states) {
		have = append(have, r.store.states[i+1])
	}
	if !slices.Equal(have, states) {
		r.t.Errorf("stored: %v, want %v", have, states)
	}
}

func each(t *testing.T, body func(t *testing.T, r *router)) {
	synctest.Test(t, func(t *testing.T) { body(t, start(t)) })
}

func TestCommitConfirmsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", 0)
		r.runs(2, "two", false, "confirmed", "confirmed")
		time.Sleep(time.Hour)
		r.runs(2, "two", false, "confirmed", "confirmed")
		if _, err := r.Confirm(); !errors.Is(err, ErrNothingPending) {
			t.Errorf("confirm: %v", err)
		}
	})
}

func TestTimeOutGoesBack(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", 2*time.Minute)
		time.Sleep(2*time.Minute - time.Second)
		r.runs(2, "two", true, "confirmed", "pending")
		time.Sleep(2 * time.Second)
		r.runs(1, "one", false, "confirmed", "rolled-back")
		if !slices.Equal(r.gone, []int{2}) {
			t.Errorf("told of %v", r.gone)
		}
		r.must(1, "three", 0)
		r.runs(3, "three", false, "confirmed", "rolled-back", "confirmed")
	})
}

func TestConfirmInTime(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", 2*time.Minute)
		time.Sleep(time.Minute)
		if _, err := r.Confirm(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		r.runs(2, "two", false, "confirmed", "confirmed")
	})
}

// TestSecondPendingGoesBackToConfirmed: the first pending commit must not
// become what a time-out leads to, and its deadline is replaced.
func TestSecondPendingGoesBackToConfirmed(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", 2*time.Minute)
		time.Sleep(90 * time.Second)
		r.must(2, "three", 2*time.Minute)
		time.Sleep(90 * time.Second)
		r.runs(3, "three", true, "confirmed", "rolled-back", "pending")
		time.Sleep(time.Minute)
		r.runs(1, "one", false, "confirmed", "rolled-back", "rolled-back")
	})
}

func TestCommitWithoutConfirmEndsPending(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", 2*time.Minute)
		r.must(2, "three", 0)
		time.Sleep(time.Hour)
		r.runs(3, "three", false, "confirmed", "rolled-back", "confirmed")
	})
}

func TestTwoAdmins(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", 0)
		_, err := r.commit(1, "three", 0)
		var conflict *ConflictError
		if !errors.As(err, &conflict) || conflict.Running.N != 2 || conflict.Base != 1 {
			t.Fatalf("error: %v", err)
		}
		r.runs(2, "two", false, "confirmed", "confirmed")
	})
}

func TestInvalidIsNotBegun(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		_, err := r.commit(1, "no host name!", 0)
		var problems settings.Problems
		if !errors.As(err, &problems) {
			t.Fatalf("error: %v", err)
		}
		r.runs(1, "one", false, "confirmed")
	})
}

func TestUnchanged(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		_, changed, err := r.Commit(t.Context(), 1, named("one"), "", 0)
		if changed || err != nil {
			t.Errorf("changed %v, %v", changed, err)
		}
		r.runs(1, "one", false, "confirmed")
	})
}

func TestApplyFails(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.broken = "two"
		if _, err := r.commit(1, "two", time.Minute); err == nil {
			t.Fatal("no error")
		}
		r.runs(1, "one", false, "confirmed", "failed")
	})
}

// TestApplyFailsWhilePending: the store gave the pending one up for the new
// one, so nothing but the confirmed one can run on.
func TestApplyFailsWhilePending(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", time.Minute)
		r.broken = "three"
		if _, err := r.commit(2, "three", time.Minute); err == nil {
			t.Fatal("no error")
		}
		r.runs(1, "one", false, "confirmed", "rolled-back", "failed")
		time.Sleep(time.Hour)
		r.runs(1, "one", false, "confirmed", "rolled-back", "failed")
	})
}

func TestFullDisk(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.store.full = true
		if _, err := r.commit(1, "two", 0); !errors.Is(err, errFull) {
			t.Fatalf("error: %v", err)
		}
		r.runs(1, "one", false, "confirmed")
		// It fills up while a commit waits: confirm fails, time brings it back.
		r.store.full = false
		r.must(1, "two", time.Minute)
		r.store.full = true
		if _, err := r.Confirm(); !errors.Is(err, errFull) {
			t.Fatalf("confirm: %v", err)
		}
		r.runs(2, "two", true, "confirmed", "pending")
		time.Sleep(2 * time.Minute)
		if s := r.State(); s.Running.N != 1 || r.kernel != "one" {
			t.Errorf("running %d, kernel %s", s.Running.N, r.kernel)
		}
	})
}

func TestGoingBackIsTriedAgain(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		r.must(1, "two", time.Minute)
		r.broken = "one"
		time.Sleep(2 * time.Minute)
		r.runs(2, "two", true, "confirmed", "pending")
		r.broken = ""
		time.Sleep(retry + time.Second)
		r.runs(1, "one", false, "confirmed", "rolled-back")
	})
}

func TestEdit(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		rename := func(s *settings.Settings) error { s.System.Hostname = "two"; return nil }
		if _, _, err := r.Edit(t.Context(), rename, ""); err != nil {
			t.Fatal(err)
		}
		r.runs(2, "two", false, "confirmed", "confirmed")
		r.must(2, "three", time.Minute)
		if _, _, err := r.Edit(t.Context(), rename, ""); !errors.Is(err, ErrPending) {
			t.Errorf("edit while pending: %v", err)
		}
	})
}

// TestAnew: settings that equal the running ones are a revision of their own
// when the caller says so.
func TestAnew(t *testing.T) {
	each(t, func(t *testing.T, r *router) {
		if _, changed, err := r.Commit(t.Context(), 1, named("one"), "", 0); err != nil || changed {
			t.Errorf("changed %v, %v", changed, err)
		}
		r.runs(1, "one", false, "confirmed")
		if _, changed, err := r.Commit(Anew(t.Context()), 1, named("one"), "", time.Minute); err != nil || !changed {
			t.Errorf("changed %v, %v", changed, err)
		}
		r.runs(2, "one", true, "confirmed", "pending")
		time.Sleep(2 * time.Minute)
		r.runs(1, "one", false, "confirmed", "rolled-back")
	})
}
