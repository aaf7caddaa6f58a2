// Package supervise runs services: it starts them, keeps the last lines they
// print, restarts them with growing pauses when they end, and stops them in
// reverse order. One Reaper waits for all children of the process.
package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// State is where a service is in its life.
type State string

// States of a service.
const (
	Stopped  State = "stopped"  // not started yet, or stopped on purpose
	Starting State = "starting" // runs, but is not ready yet
	Running  State = "running"
	Waiting  State = "waiting" // has ended; pauses before the next start
	Stopping State = "stopping"
)

// Status is what a service does at a moment.
type Status struct {
	Name     string        `json:"name"`
	State    State         `json:"state"`
	Pid      int           `json:"pid,omitempty"`
	Restarts int           `json:"restarts"`
	Since    time.Duration `json:"since_ns"`            // for how long it has been in State
	LastExit string        `json:"last_exit,omitempty"` // "exit status 1", "killed by SIGKILL", or why the start failed
}

// Options for New.
type Options struct {
	Log    *slog.Logger
	Reaper *Reaper // its Run must be running
	Now    func() time.Time
	// LogBytes bounds each service's log; 0 means 32 KiB.
	LogBytes int
	// Guard runs the function of every goroutine of the supervisor; PID 1 uses
	// it to turn a panic into an orderly reboot. nil: called directly.
	Guard func(name string, f func())
	// Ended is told, before the pause, how a service ended that should have
	// run on, with the last lines it wrote. May be nil.
	Ended func(name, exit string, last []Line, pause time.Duration)
}

// Supervisor runs services.
type Supervisor struct {
	o     Options
	start func(svc *Service, ring *Ring, guard func(string, func()), ready func()) (process, <-chan struct{}, error)

	mu    sync.Mutex
	tasks []*task
}

// New returns a Supervisor without services.
func New(o Options) *Supervisor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.LogBytes == 0 {
		o.LogBytes = 32 << 10
	}
	if o.Guard == nil {
		o.Guard = func(_ string, f func()) { f() }
	}
	s := &Supervisor{o: o}
	if o.Reaper != nil {
		s.start = o.Reaper.startService
	}
	return s
}

// Add registers services in the order in which Run starts them. They must all
// be added before Run.
func (s *Supervisor) Add(services ...Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, svc := range services {
		if err := svc.check(); err != nil {
			return err
		}
		for _, t := range s.tasks {
			if t.svc.Name == svc.Name {
				return fmt.Errorf("service %s: there is one of that name already", svc.Name)
			}
		}
		if svc.StopTimeout == 0 {
			svc.StopTimeout = 5 * time.Second
		}
		s.tasks = append(s.tasks, &task{
			s: s, svc: svc, state: Stopped, changed: s.o.Now(),
			ring: NewRing(s.o.LogBytes, s.o.Now, nil),
			done: make(chan struct{}), tried: make(chan struct{}),
		})
	}
	return nil
}

// Run starts all services in order and keeps them running. When ctx is done it
// stops them one by one in reverse order (SIGTERM, and SIGKILL after a
// service's StopTimeout) and returns nil when all have ended.
func (s *Supervisor) Run(ctx context.Context) error {
	s.mu.Lock()
	tasks := append([]*task(nil), s.tasks...)
	s.mu.Unlock()
	cancels := make([]context.CancelFunc, len(tasks))
	for i, t := range tasks {
		var tctx context.Context
		tctx, cancels[i] = context.WithCancel(context.WithoutCancel(ctx))
		go s.o.Guard("service "+t.svc.Name, func() { t.run(tctx) })
		<-t.tried
	}
	<-ctx.Done()
	for i := len(tasks) - 1; i >= 0; i-- {
		cancels[i]()
		<-tasks[i].done
	}
	return nil
}

// Status returns the state of all services, in the order they were added.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, len(s.tasks))
	for i, t := range s.tasks {
		out[i] = t.status()
	}
	return out
}

// Log returns the log of a service, or nil.
func (s *Supervisor) Log(name string) *Ring {
	if t := s.task(name); t != nil {
		return t.ring
	}
	return nil
}

// Signal sends sig to a service's process; SIGKILL hits its process group.
func (s *Supervisor) Signal(name string, sig syscall.Signal) error {
	t := s.task(name)
	if t == nil {
		return fmt.Errorf("no service %q", name)
	}
	t.mu.Lock()
	p := t.proc
	t.mu.Unlock()
	if p == nil {
		return fmt.Errorf("service %s does not run", name)
	}
	return p.Signal(sig)
}

func (s *Supervisor) task(name string) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.svc.Name == name {
			return t
		}
	}
	return nil
}

// task is one service being run.
type task struct {
	s     *Supervisor
	svc   Service
	ring  *Ring
	tried chan struct{} // closed after the first attempt to start it
	done  chan struct{} // closed when it has been stopped for good

	mu       sync.Mutex
	state    State
	changed  time.Time
	proc     process
	starts   int
	lastExit string
}

func (t *task) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := Status{
		Name: t.svc.Name, State: t.state, Restarts: max(0, t.starts-1),
		Since: t.s.o.Now().Sub(t.changed), LastExit: t.lastExit,
	}
	if t.proc != nil {
		st.Pid = t.proc.Pid()
	}
	return st
}

func (t *task) set(st State, p process) {
	t.mu.Lock()
	t.state, t.changed, t.proc = st, t.s.o.Now(), p
	t.mu.Unlock()
}

// lastLines are how many of its last lines tell why a service ended.
const lastLines = 3

// run starts the service again and again until ctx is done.
func (t *task) run(ctx context.Context) {
	defer close(t.done)
	var pause time.Duration
	for ctx.Err() == nil {
		began := t.s.o.Now()
		exit := t.once(ctx)
		ran := t.s.o.Now().Sub(began)
		t.mu.Lock()
		t.lastExit = exit
		t.mu.Unlock()
		if ctx.Err() != nil {
			break
		}
		pause = t.svc.Backoff.next(pause, ran)
		t.set(Waiting, nil)
		last := t.ring.Tail(lastLines)
		t.ring.Add(fmt.Sprintf("init: %s after %s; next start in %s", exit, ran.Round(time.Millisecond), pause))
		t.s.o.Log.Warn("service ended", "service", t.svc.Name, "exit", exit, "ran", ran.Round(time.Millisecond), "pause", pause)
		if t.s.o.Ended != nil {
			t.s.o.Ended(t.svc.Name, exit, last, pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	t.set(Stopped, nil)
}

// once runs the service until it ends, or stops it when ctx is done, and
// returns how it ended.
func (t *task) once(ctx context.Context) string {
	t.set(Starting, nil)
	t.mu.Lock()
	t.starts++
	gen := t.starts
	t.mu.Unlock()
	p, drained, err := t.s.start(&t.svc, t.ring, t.s.o.Guard, func() { t.markReady(gen) })
	if gen == 1 {
		close(t.tried)
	}
	if err != nil {
		return fmt.Sprintf("cannot start %s: %v", t.svc.Argv[0], err)
	}
	t.mu.Lock()
	t.proc = p
	t.mu.Unlock()
	t.s.o.Log.Info("service started", "service", t.svc.Name, "pid", p.Pid())
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.stop(p)
	}
	// Its last words, unless something that left the group holds the pipe open.
	if drained != nil {
		timer := time.NewTimer(time.Second)
		select {
		case <-drained:
		case <-timer.C:
		}
		timer.Stop()
	}
	return p.ExitText()
}

// markReady turns the gen-th start of the service into a running one, unless
// it has ended since.
func (t *task) markReady(gen int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.starts == gen && t.state == Starting {
		t.state, t.changed = Running, t.s.o.Now()
	}
}

// stop ends p: SIGTERM, and SIGKILL if it takes longer than it may.
func (t *task) stop(p process) {
	t.set(Stopping, p)
	_ = p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(t.svc.StopTimeout)
	defer timer.Stop()
	select {
	case <-p.Done():
		return
	case <-timer.C:
	}
	t.s.o.Log.Warn("service ignores SIGTERM; killed", "service", t.svc.Name, "after", t.svc.StopTimeout)
	_ = p.Signal(syscall.SIGKILL)
	<-p.Done()
}
