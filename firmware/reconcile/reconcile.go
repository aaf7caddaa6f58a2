package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Options of a Reconciler. Kernel is required.
type Options struct {
	Kernel Kernel
	// Ticks tell that the kernel may have changed (kernel/watch).
	Ticks <-chan struct{}
	// Resync is how often the state is read without any tick; 45 s when 0.
	Resync time.Duration
	// Gone is called after addresses of the router went, to end their
	// connections; may be nil.
	Gone func([]netip.Addr) error
	// Observed is called by the loop with every observation; may be nil and
	// must not wait for the Reconciler.
	Observed func(Target)
	Log      *slog.Logger
}

// Times of the loop.
const (
	defaultResync = 45 * time.Second
	// settle lets a burst of events end before the state is read.
	settle = 100 * time.Millisecond
	// patience is how many repairs in a row happen at once; then each waits
	// twice as long as the one before: somebody fights us.
	patience   = 3
	maxBackoff = 60 * time.Second
)

// Reconciler keeps the kernel at the wanted state. One goroutine, Run, does
// all of it.
type Reconciler struct {
	o        Options
	requests chan request
	pings    chan chan struct{}

	// Owned by Run.
	want      *Target
	quiet     *Target   // as the kernel was observed last, while nothing tells that it changed; nil: not known
	repairs   int       // repairs and failures in a row
	last      time.Time // of the last of them
	notBefore time.Time // no look at the kernel before, requests apart
	next      time.Time // when the next look is due
}

type request struct {
	want  Target
	adopt bool // keep want even when it fails
	after func() error
	reply chan reply // nil: nobody waits
}

type reply struct {
	res Result
	err error
}

// New makes a Reconciler that wants nothing yet.
func New(o Options) *Reconciler {
	if o.Resync == 0 {
		o.Resync = defaultResync
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{o: o, requests: make(chan request), pings: make(chan chan struct{})}
}

func (r *Reconciler) String() string { return "reconcile" }

// Apply makes want the wanted state and brings the kernel there. When that
// fails the steps are taken back and the state wanted before stays wanted.
// after, if not nil, runs once the kernel is there, e.g. to end connections
// that the new rules refuse; its error is returned but takes nothing back.
// ctx bounds the wait for the loop, not the change once it has begun.
func (r *Reconciler) Apply(ctx context.Context, want Target, after func() error) (Result, error) {
	return r.request(ctx, request{want: want, after: after})
}

// Set is Apply for what was learnt instead of configured: want stays wanted
// when it fails, and the loop tries again.
func (r *Reconciler) Set(ctx context.Context, want Target) (Result, error) {
	return r.request(ctx, request{want: want, adopt: true})
}

func (r *Reconciler) request(ctx context.Context, q request) (Result, error) {
	q.reply = make(chan reply, 1)
	select {
	case r.requests <- q:
		a := <-q.reply
		return a.res, a.err
	case <-ctx.Done():
		return Result{}, errors.Join(errors.New("the reconcile loop does not answer, nothing was changed"), ctx.Err())
	}
}

// Health returns nil when the loop answers before ctx ends.
func (r *Reconciler) Health(ctx context.Context) error {
	c := make(chan struct{})
	select {
	case r.pings <- c:
		return nil
	case <-ctx.Done():
		return errors.New("the reconcile loop does not answer")
	}
}

// Run is the loop; it ends with ctx, which is no error.
func (r *Reconciler) Run(ctx context.Context) error {
	timer := time.NewTimer(r.o.Resync)
	defer timer.Stop()
	r.next = time.Now().Add(r.o.Resync)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.pings:
		case q := <-r.requests:
			r.serve(q)
		case <-r.o.Ticks:
			r.ticked()
		case <-timer.C:
			r.next = time.Now().Add(r.o.Resync)
			r.quiet = nil
			r.look()
		}
		timer.Reset(time.Until(r.next))
	}
}

// ticked takes note that the kernel may have changed.
func (r *Reconciler) ticked() {
	r.quiet = nil
	r.due(time.Now().Add(settle))
}

// due asks for a look at t, or later while backing off.
func (r *Reconciler) due(t time.Time) {
	if t.Before(r.notBefore) {
		t = r.notBefore
	}
	if t.Before(r.next) {
		r.next = t
	}
}

// serve carries out a request.
func (r *Reconciler) serve(q request) {
	res, err := r.converge(q.want)
	if err == nil || q.adopt {
		r.want = &q.want
	}
	switch {
	case err != nil:
		r.o.Log.Error("apply", "err", err)
		if r.want != nil {
			r.failed()
		}
	case q.after != nil:
		err = q.after()
	}
	for _, s := range res.Steps {
		r.o.Log.Info("apply", "step", s)
	}
	q.reply <- reply{res, err}
}

// look compares the kernel with what is wanted and repairs the difference.
func (r *Reconciler) look() {
	if r.want == nil {
		return
	}
	res, err := r.converge(*r.want)
	for _, s := range res.Steps {
		r.o.Log.Warn("repair: something else changed the kernel", "step", s)
	}
	switch {
	case err != nil:
		r.o.Log.Error("repair", "err", err)
		r.failed()
	case len(res.Steps) > 0:
		r.failed()
	case time.Since(r.last) >= r.o.Resync:
		r.repairs = 0
	}
}

// failed backs off: the loop never spins, whoever fights it.
func (r *Reconciler) failed() {
	r.repairs++
	r.last = time.Now()
	if r.repairs <= patience {
		r.due(r.last.Add(settle))
		return
	}
	wait := min(time.Second<<min(r.repairs-patience-1, 10), maxBackoff)
	r.notBefore = r.last.Add(wait)
	r.next = r.notBefore
}

// calm is the last observation when it can still be trusted for all but the
// rules: no event came since, and want has the same links, addresses, routes
// and sysctls as what it was found to agree with. A tick that nobody took yet
// counts.
func (r *Reconciler) calm(want Target) *Target {
	select {
	case <-r.o.Ticks:
		r.ticked()
	default:
	}
	if r.quiet == nil || r.want == nil || !netstate.Same(r.want.Net, want.Net) {
		return nil
	}
	return r.quiet
}

// converge runs one Converge and what follows from it.
func (r *Reconciler) converge(want Target) (Result, error) {
	var was *ruleset.Table
	if r.want != nil {
		was = r.want.Rules
	}
	if have := r.calm(want); have != nil {
		res, err := r.o.Kernel.ConvergeRules(want, *have, was)
		r.note(res, err)
		return res, err
	}
	res, err := r.o.Kernel.Converge(want, was)
	r.note(res, err)
	if r.o.Observed != nil && (err == nil || len(res.Have.Net.Links) > 0) {
		r.o.Observed(res.Have)
	}
	if len(res.Gone) > 0 && r.o.Gone != nil {
		if gerr := r.o.Gone(res.Gone); gerr != nil {
			r.o.Log.Warn("end connections of a former address", "addrs", res.Gone, "err", gerr)
		}
	}
	return res, err
}

// note keeps what was observed, if all is as it should be.
func (r *Reconciler) note(res Result, err error) {
	r.quiet = nil
	if err == nil && len(res.Missing) == 0 {
		r.quiet = &res.Have
	}
}
