// Package confirm commits settings: it guards against two admins at once,
// takes back what the kernel refuses, and goes back to the last confirmed
// revision when nobody confirms a new one in time.
package confirm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// Store keeps revisions. M is who committed, when and why. A boot starts the
// last confirmed revision, whatever was begun after it.
type Store[M any] interface {
	// Begin keeps s as a new pending revision and returns its number. One that
	// was pending before is given up by it: only the newest can be confirmed.
	Begin(s *settings.Settings, meta M) (n int, err error)
	// Commit keeps s as a new revision that is confirmed at once; one that was
	// pending before is given up by it.
	Commit(s *settings.Settings, meta M) (n int, err error)
	// Confirm makes revision n the confirmed one.
	Confirm(n int) error
	// Fail marks a pending revision that was not carried out.
	Fail(n int) error
	// RollBack marks a pending revision that was carried out and taken back.
	RollBack(n int) error
}

// Revision is a settings tree with its number in the store.
type Revision struct {
	N        int
	Settings *settings.Settings // never changed
}

// State is what runs and what a time-out or a crash would go back to.
type State struct {
	Running   Revision
	Confirmed Revision
	// Deadline is when Running is given up for Confirmed; zero when Running is
	// the confirmed one.
	Deadline time.Time
}

// Pending tells whether the running revision waits for a confirmation.
func (s State) Pending() bool { return !s.Deadline.IsZero() }

// Options of a Committer.
type Options[M any] struct {
	Store Store[M]
	// Confirmed is what runs at the start.
	Confirmed Revision
	// Apply carries settings out, all of them or, with an error, none.
	Apply func(ctx context.Context, s *settings.Settings) error
	// Restore carries settings out that were in effect before, and keeps at it
	// by itself after an error where it can (reconcile.Reconciler.Set); nil
	// means Apply.
	Restore func(ctx context.Context, s *settings.Settings) error
	// RolledBack is told when pending revisions were given up, after a time-out
	// or because the next commit failed: which went and what runs now. It must
	// not call the Committer but for State.
	RolledBack func(gone []int, now Revision)
	Log        *slog.Logger
}

// Committer owns what runs. Its methods may be called from any goroutine.
type Committer[M any] struct {
	o     Options[M]
	mu    sync.Mutex // one commit, confirm or rollback at a time
	state atomic.Pointer[State]
	gone  []int // pending revisions since the confirmed one, oldest first
	wake  chan struct{}
}

// New makes a Committer that runs o.Confirmed. Run must be running for
// time-outs to happen.
func New[M any](o Options[M]) *Committer[M] {
	if o.Restore == nil {
		o.Restore = o.Apply
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Committer[M]{o: o, wake: make(chan struct{}, 1)}
	c.set(State{Running: o.Confirmed, Confirmed: o.Confirmed})
	return c
}

func (c *Committer[M]) String() string { return "commit-confirm" }

// State returns what runs now; it never waits for a commit under way.
func (c *Committer[M]) State() State { return *c.state.Load() }

func (c *Committer[M]) set(s State) {
	c.state.Store(&s)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// ConflictError tells that somebody else committed meanwhile.
type ConflictError struct {
	Base    int      // what the candidate started from
	Running Revision // what runs instead
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("revision %d runs now, your changes started from %d: see what changed with compare, then commit again", e.Running.N, e.Base)
}

type anew struct{}

// Anew is a context with which Commit makes a revision even of settings that
// equal the running ones, and Apply carries it out: they may be in effect in
// another way than they are written.
func Anew(ctx context.Context) context.Context { return context.WithValue(ctx, anew{}, true) }

// IsAnew tells an Apply that its Commit is one of Anew.
func IsAnew(ctx context.Context) bool { again, _ := ctx.Value(anew{}).(bool); return again }

type valid struct{}

// Valid is a context with which Commit takes for granted that the candidate has
// been validated.
func Valid(ctx context.Context) context.Context { return context.WithValue(ctx, valid{}, true) }

func isValid(ctx context.Context) bool { ok, _ := ctx.Value(valid{}).(bool); return ok }

// ErrNothingPending is returned by Confirm when there is nothing to confirm.
var ErrNothingPending = errors.New("nothing waits for confirm: every commit is confirmed already")

// Commit makes candidate the running settings. base is the revision that the
// candidate started from; when another one runs by now the error is a
// *ConflictError. Invalid settings are settings.Problems, and nothing changes.
// When confirm is 0 the revision is confirmed at once, and with it an earlier
// one that waited; otherwise it is given up after that time unless Confirm
// comes first, for the last confirmed revision, not for the one before. When
// candidate equals what runs, nothing happens and changed is false, unless ctx
// is one of Anew. The candidate must not change afterwards.
func (c *Committer[M]) Commit(ctx context.Context, base int, candidate *settings.Settings, meta M, confirm time.Duration) (s State, changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commit(ctx, base, candidate, meta, confirm)
}

func (c *Committer[M]) commit(ctx context.Context, base int, candidate *settings.Settings, meta M, confirm time.Duration) (State, bool, error) {
	s := c.State()
	if base != s.Running.N {
		return s, false, &ConflictError{Base: base, Running: s.Running}
	}
	if !isValid(ctx) {
		if problems := candidate.Validate(); len(problems) > 0 {
			return s, false, problems
		}
	}
	if !IsAnew(ctx) && candidate.Equal(s.Running.Settings) {
		return s, false, nil
	}
	if confirm == 0 {
		return c.commitNow(ctx, s, candidate, meta)
	}
	n, err := c.o.Store.Begin(candidate, meta)
	if err != nil {
		return s, false, fmt.Errorf("keep the new revision, nothing was changed: %w", err)
	}
	if err := c.o.Apply(ctx, candidate); err != nil {
		return c.giveUp(ctx, n, s, err)
	}
	next := State{Running: Revision{n, candidate}, Confirmed: s.Confirmed, Deadline: time.Now().Add(confirm)}
	c.gone = append(c.gone, n)
	c.set(next)
	return next, true, nil
}

// commitNow is commit of what is confirmed at once. It is carried out before
// it is kept: that is one write of the disk instead of two, and a router that
// stops in between starts what was confirmed before, as it did with two.
func (c *Committer[M]) commitNow(ctx context.Context, s State, candidate *settings.Settings, meta M) (State, bool, error) {
	if err := c.o.Apply(ctx, candidate); err != nil {
		n, berr := c.o.Store.Begin(candidate, meta) // for the history
		if berr != nil {
			return c.unkept(ctx, s, errors.Join(err, fmt.Errorf("keep the revision that failed: %w", berr)))
		}
		return c.giveUp(ctx, n, s, err)
	}
	n, err := c.o.Store.Commit(candidate, meta)
	if err != nil {
		return c.unkept(ctx, s, fmt.Errorf("keep the new revision: %w", err))
	}
	next := State{Running: Revision{n, candidate}, Confirmed: Revision{n, candidate}}
	c.gone = nil
	c.set(next)
	return next, true, nil
}

// unkept returns to what runs, also where that waits for a confirmation: the
// store knows nothing of the new revision.
func (c *Committer[M]) unkept(ctx context.Context, s State, why error) (State, bool, error) {
	if err := c.o.Restore(context.WithoutCancel(ctx), s.Running.Settings); err != nil {
		return s, false, fmt.Errorf("%w; going back to revision %d failed too and is tried again: %w", why, s.Running.N, err)
	}
	return s, false, fmt.Errorf("%w; revision %d runs as before", why, s.Running.N)
}

// giveUp returns to what ran before revision n, and tells whether that went
// well. Where a pending revision ran it can't be confirmed any more, since the
// store gave it up for n: then the confirmed one runs again.
func (c *Committer[M]) giveUp(ctx context.Context, n int, s State, why error) (State, bool, error) {
	back := s.Confirmed
	err := fmt.Errorf("revision %d failed, revision %d runs: %w", n, back.N, why)
	if rerr := c.o.Restore(context.WithoutCancel(ctx), back.Settings); rerr != nil {
		err = fmt.Errorf("revision %d failed: %w; going back to revision %d failed too and is tried again: %w", n, why, back.N, rerr)
	}
	if ferr := c.o.Store.Fail(n); ferr != nil {
		err = errors.Join(err, fmt.Errorf("mark revision %d as failed: %w", n, ferr))
	}
	gone := c.gone
	c.gone = nil
	now := State{Running: back, Confirmed: back}
	c.set(now)
	if s.Pending() && c.o.RolledBack != nil {
		c.o.RolledBack(gone, back)
	}
	return now, false, err
}

// Confirm confirms the running revision.
func (c *Committer[M]) Confirm() (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.State()
	if !s.Pending() {
		return s, ErrNothingPending
	}
	if err := c.o.Store.Confirm(s.Running.N); err != nil {
		return s, fmt.Errorf("confirm revision %d: %w; it is given up at %s unless confirmed again", s.Running.N, err, s.Deadline.Format(time.TimeOnly))
	}
	s = State{Running: s.Running, Confirmed: s.Running}
	c.gone = nil
	c.set(s)
	return s, nil
}

// ErrPending is returned by Edit while a revision waits for a confirmation.
var ErrPending = errors.New("a commit waits for confirm: type confirm, or wait until it is taken back, then try again")

// Edit changes the running settings through f and confirms them at once, for
// passwords and keys. While a revision is pending the error is ErrPending: its
// confirmation is somebody's decision to make, and a rollback would lose the change.
func (c *Committer[M]) Edit(ctx context.Context, f func(*settings.Settings) error, meta M) (State, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.State()
	if s.Pending() {
		return s, false, ErrPending
	}
	candidate := s.Running.Settings.Clone()
	if err := f(candidate); err != nil {
		return s, false, err
	}
	return c.commit(ctx, s.Running.N, candidate, meta, 0)
}

// retry is how long to wait after a Restore that failed.
const retry = 5 * time.Second

// Run gives up pending revisions when their time is over. It ends with ctx,
// which is no error; what is pending then is given up at the next start.
func (c *Committer[M]) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
			if !c.expire(ctx) {
				timer.Reset(retry)
				continue
			}
		}
		if s := c.State(); s.Pending() {
			timer.Reset(time.Until(s.Deadline))
		} else {
			timer.Stop()
		}
	}
}

// expire goes back to the confirmed revision if it is time to; false means
// that it has to be tried again.
func (c *Committer[M]) expire(ctx context.Context) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.State()
	if !s.Pending() || time.Now().Before(s.Deadline) {
		return true
	}
	if err := c.o.Restore(ctx, s.Confirmed.Settings); err != nil {
		c.o.Log.Error("nobody confirmed, going back failed and is tried again", "revision", s.Running.N, "confirmed", s.Confirmed.N, "err", err)
		return false
	}
	gone := c.gone
	c.gone = nil
	if err := c.o.Store.RollBack(s.Running.N); err != nil {
		c.o.Log.Error("mark a revision as rolled back", "revision", s.Running.N, "err", err)
	}
	c.o.Log.Warn("nobody confirmed in time, went back", "revision", s.Running.N, "confirmed", s.Confirmed.N)
	c.set(State{Running: s.Confirmed, Confirmed: s.Confirmed})
	if c.o.RolledBack != nil {
		c.o.RolledBack(gone, s.Confirmed)
	}
	return true
}
