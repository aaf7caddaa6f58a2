package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reaper is the one place in a process that waits for children. PID 1 inherits
// every orphan of the system, so it has to wait for "any child"; such a wait
// steals the status that os/exec or os.Process.Wait would be looking for.
// Programs with a Reaper therefore start every child through Start and learn of
// its end through Process.Done, never through package os.
type Reaper struct {
	sigchld chan os.Signal
	orphans atomic.Int64

	// mu is held over fork and registration, so that a child that dies at once
	// is known before its status is collected, and over collection, so that
	// Signal never hits a pid that was given to somebody else in between.
	mu     sync.Mutex
	owners map[int]*Process
}

// NewReaper returns a Reaper that listens for SIGCHLD from now on.
// Nothing is collected before Run.
func NewReaper() *Reaper {
	r := &Reaper{sigchld: make(chan os.Signal, 1), owners: map[int]*Process{}}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	return r
}

// Run collects children until ctx is done and returns ctx's error.
func (r *Reaper) Run(ctx context.Context) error {
	defer signal.Stop(r.sigchld)
	for {
		r.drain()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.sigchld:
		}
	}
}

// Orphans returns how many processes without an owner were collected.
func (r *Reaper) Orphans() int64 { return r.orphans.Load() }

// drain collects all children that have ended. SIGCHLDs coalesce, so one may
// stand for many.
func (r *Reaper) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid := endedChild()
		if pid <= 0 {
			return
		}
		p := r.owners[pid]
		if p != nil && p.group {
			// The leader is still a zombie here, so its number cannot have been
			// reused: what is left of its group dies with it.
			_ = unix.Kill(-pid, unix.SIGKILL)
		}
		var ws syscall.WaitStatus
		for {
			_, err := syscall.Wait4(pid, &ws, 0, nil)
			if err != syscall.EINTR {
				break
			}
		}
		if p == nil {
			r.orphans.Add(1)
			continue
		}
		delete(r.owners, pid)
		p.status = ws
		close(p.done)
	}
}

// endedChild returns the pid of a child that has ended and leaves it waitable,
// or 0 if there is none.
func endedChild() int {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0
		}
		break
	}
	// si_pid opens the union, which is aligned to a pointer after three ints.
	const off = (12 + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), off)))
}

// Process is a child started through a Reaper.
type Process struct {
	r      *Reaper
	pid    int
	group  bool // leads a process group of its own
	status syscall.WaitStatus
	done   chan struct{}
}

// start runs fork under the reaper's lock and registers the child. group says
// that the child leads its own process group, whose remains are killed when it
// ends. after, if not nil, runs while the child cannot have been collected.
func (r *Reaper) start(group bool, fork func() (int, error), after func(pid int)) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// When exec fails, ForkExec itself waits for the child; under the lock
	// nobody takes that status away.
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	p := &Process{r: r, pid: pid, group: group, done: make(chan struct{})}
	r.owners[pid] = p
	if after != nil {
		after(pid)
	}
	return p, nil
}

// Start runs argv[0] (a path, PATH is not searched) with attr. With
// attr.Sys.Setsid or Setpgid the remains of the child's process group are
// killed when it ends.
func (r *Reaper) Start(argv []string, attr *syscall.ProcAttr) (*Process, error) {
	group := attr.Sys != nil && (attr.Sys.Setsid || attr.Sys.Setpgid)
	return r.start(group, func() (int, error) { return syscall.ForkExec(argv[0], argv, attr) }, nil)
}

// Pid returns the process id. It may belong to another process once Done is closed.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the process has ended and was collected.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status returns how the process ended; it is only meaningful after Done.
func (p *Process) Status() syscall.WaitStatus { return p.status }

// ExitText says how the process ended, for people; only meaningful after Done.
func (p *Process) ExitText() string {
	switch {
	case p.status.Signaled():
		core := ""
		if p.status.CoreDump() {
			core = ", core dumped"
		}
		return fmt.Sprintf("killed by %s%s", unix.SignalName(p.status.Signal()), core)
	default:
		return fmt.Sprintf("exit status %d", p.status.ExitStatus())
	}
}

// Signal sends sig to the process, or to its whole group when it leads one and
// sig is SIGKILL. After the end it does nothing and returns os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.r.owners[p.pid] != p {
		return os.ErrProcessDone
	}
	if p.group && sig == syscall.SIGKILL {
		return unix.Kill(-p.pid, sig)
	}
	return unix.Kill(p.pid, sig)
}
