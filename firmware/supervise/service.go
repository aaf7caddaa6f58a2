package supervise

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Service says how one process is started and kept running.
type Service struct {
	Name string   // unique; also the name of its log
	Argv []string // Argv[0] is a path; PATH is not searched
	Env  []string // the whole environment, "KEY=value"
	Dir  string   // working directory; "" means "/"

	// UID and GID, if not zero, are taken on without supplementary groups.
	UID, GID uint32
	// Caps are ambient capabilities (unix.CAP_*): the process and the programs
	// it runs have them although they are not root.
	Caps []uintptr
	// Confine drops everything but Caps from the bounding set and sets
	// no_new_privs: no program run below this service can gain more.
	Confine bool

	OOMScoreAdj int // -1000 (never killed) to 1000
	Nice        int // 0 to 19 (first to wait for a CPU)

	Ready Ready
	// StopTimeout is how long the process may take after SIGTERM before it is
	// killed; 0 means 5 s.
	StopTimeout time.Duration
	Backoff     Backoff
}

// Ready says how a starting service becomes a running one. The zero value:
// it is running as soon as it was started.
type Ready struct {
	// FD: the process gets a pipe as descriptor 3, named by CULVERT_READY_FD=3
	// in its environment, and writes any byte to it once it serves.
	FD bool
	// Socket: ready as soon as this unix stream socket accepts connections.
	Socket string
}

// ReadyEnv is the environment variable that names the readiness descriptor.
const ReadyEnv = "CULVERT_READY_FD"

func (s *Service) check() error {
	switch {
	case s.Name == "":
		return errors.New("service without a name")
	case len(s.Argv) == 0:
		return fmt.Errorf("service %s: no command", s.Name)
	case s.OOMScoreAdj < -1000 || s.OOMScoreAdj > 1000:
		return fmt.Errorf("service %s: OOM score %d, allowed are -1000 to 1000", s.Name, s.OOMScoreAdj)
	case s.Nice < 0 || s.Nice > 19:
		return fmt.Errorf("service %s: nice %d, allowed are 0 to 19", s.Name, s.Nice)
	}
	return nil
}

// Backoff is the pause before a restart: Min after the first failure, doubled
// with each further one up to Max, back to Min after a run of at least Healthy.
// Zero fields mean 500 ms, 30 s and 60 s.
type Backoff struct {
	Min, Max, Healthy time.Duration
}

// next returns the pause after a run that took ran, given the pause before
// that run (0: it was the first).
func (b Backoff) next(last, ran time.Duration) time.Duration {
	lo, hi, healthy := b.Min, b.Max, b.Healthy
	if lo == 0 {
		lo = 500 * time.Millisecond
	}
	if hi == 0 {
		hi = 30 * time.Second
	}
	if healthy == 0 {
		healthy = 60 * time.Second
	}
	if last == 0 || ran >= healthy {
		return min(lo, hi)
	}
	return min(2*last, hi)
}

// process is what a task needs of a running service.
type process interface {
	Pid() int
	Done() <-chan struct{}
	ExitText() string
	Signal(syscall.Signal) error
}

// startService runs svc with its output going to ring. ready is called at most once.
// drained is closed when all output has been read.
func (r *Reaper) startService(svc *Service, ring *Ring, guard func(string, func()), ready func()) (process, <-chan struct{}, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer outW.Close()
	env := svc.Env
	files := []uintptr{null.Fd(), outW.Fd(), outW.Fd()}
	var readyR *os.File
	if svc.Ready.FD {
		pr, pw, err := os.Pipe()
		if err != nil {
			outR.Close()
			return nil, nil, err
		}
		defer pw.Close()
		readyR = pr
		files = append(files, pw.Fd())
		env = append(append([]string(nil), env...), ReadyEnv+"=3")
	}
	p, err := r.start(true, func() (int, error) { return fork(svc, env, files) }, func(pid int) {
		if svc.OOMScoreAdj != 0 {
			path := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
			if err := os.WriteFile(path, []byte(strconv.Itoa(svc.OOMScoreAdj)), 0); err != nil {
				ring.Add("init: OOM score not set: " + err.Error())
			}
		}
	})
	if err != nil {
		outR.Close()
		if readyR != nil {
			readyR.Close()
		}
		return nil, nil, err
	}
	drained := make(chan struct{})
	go guard("log of "+svc.Name, func() {
		defer close(drained)
		defer outR.Close()
		_, _ = ring.ReadFrom(outR)
	})
	switch {
	case readyR != nil:
		go guard("readiness of "+svc.Name, func() {
			defer readyR.Close()
			if n, _ := readyR.Read(make([]byte, 1)); n > 0 {
				ready()
			}
		})
	case svc.Ready.Socket != "":
		go guard("readiness of "+svc.Name, func() { awaitSocket(svc.Ready.Socket, p.Done(), ready) })
	default:
		ready()
	}
	return p, drained, nil
}

// awaitSocket calls ready once path accepts a connection, unless done comes first.
func awaitSocket(path string, done <-chan struct{}, ready func()) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			ready()
			return
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// fork starts svc. Niceness, capability bounding set and no_new_privs belong to
// the calling thread and are inherited by what it forks; Go cannot set them in
// the child. So such a service is forked by a thread of its own that takes them
// on first and ends with its goroutine, because it stays locked to it.
func fork(svc *Service, env []string, files []uintptr) (int, error) {
	dir := svc.Dir
	if dir == "" {
		dir = "/"
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if svc.UID != 0 || svc.GID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: svc.UID, Gid: svc.GID}
	}
	attr.Sys.AmbientCaps = svc.Caps
	if !svc.Confine && svc.Nice == 0 {
		return syscall.ForkExec(svc.Argv[0], svc.Argv, attr)
	}
	type result struct {
		pid int
		err error
	}
	out := make(chan result, 1)
	go onSpareThread(func() {
		if err := prepareThread(svc); err != nil {
			out <- result{0, err}
			return
		}
		pid, err := syscall.ForkExec(svc.Argv[0], svc.Argv, attr)
		out <- result{pid, err}
	})
	res := <-out
	return res.pid, res.err
}

// onSpareThread runs f on a thread that ends with the calling goroutine, never
// on the process's first one: that cannot end, and /proc/PID shows its state.
func onSpareThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onSpareThread(f) // this thread is taken, so it lands on another
	}()
	<-done
	runtime.UnlockOSThread()
}

// prepareThread makes the calling thread, and so what it forks, what svc asks for.
func prepareThread(svc *Service) error {
	if svc.Nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, svc.Nice); err != nil {
			return fmt.Errorf("nice %d not set: %w", svc.Nice, err)
		}
	}
	if !svc.Confine {
		return nil
	}
	return confineThread(svc)
}

// confineThread gives up, for the calling thread and its future children, all
// of the bounding set but what svc keeps, and the gaining of privileges by exec.
func confineThread(svc *Service) error {
	keep := map[uintptr]bool{}
	for _, c := range svc.Caps {
		keep[c] = true
	}
	// What this thread has now (CAP_SETUID for the way down) is not touched: the
	// bounding set only limits what exec and the inheritable set may add.
	for c := uintptr(0); c < 64; c++ {
		if on, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil {
			break // past the last capability this kernel knows
		} else if on == 0 || keep[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("capability %d not dropped from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs not set: %w", err)
	}
	return nil
}
