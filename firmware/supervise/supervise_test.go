package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// limit only catches hangs; no test waits for it.
const limit = 30 * time.Second

// theReaper is shared: two of them in one process would steal from each other.
var theReaper = sync.OnceValue(func() *Reaper {
	r := NewReaper()
	go func() { _ = r.Run(context.Background()) }()
	return r
})

// eventually polls cond, for states that announce themselves nowhere.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

// runServices runs a supervisor until the returned function is called, which
// waits until all has stopped.
func runServices(t *testing.T, services ...Service) (*Supervisor, func()) {
	t.Helper()
	s := New(Options{Reaper: theReaper()})
	if err := s.Add(services...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(limit):
			t.Error("the supervisor does not stop")
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func logText(r *Ring) string {
	var b strings.Builder
	for _, l := range r.Tail(0) {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func attrs() *syscall.ProcAttr {
	return &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}}
}

func TestReaperGivesEachOwnerItsStatus(t *testing.T) {
	r := theReaper()
	procs := map[int]*Process{}
	for code := range 40 { // at once, most of them ending before Start returns
		p, err := r.Start(sh(fmt.Sprintf("exit %d", code)), attrs())
		if err != nil {
			t.Fatal(err)
		}
		procs[code] = p
	}
	for code, p := range procs {
		select {
		case <-p.Done():
		case <-time.After(limit):
			t.Fatalf("process with exit status %d was never collected", code)
		}
		if got := p.Status().ExitStatus(); got != code {
			t.Errorf("exit status %d arrived as %d", code, got)
		}
		if err := p.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
	}
}

func TestReaperStartFailureIsAnError(t *testing.T) {
	if _, err := theReaper().Start([]string{"/no/such/program"}, attrs()); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("error is %v, want ENOENT", err)
	}
}

func TestReaperCollectsOrphans(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := theReaper()
	before := r.Orphans()
	// The inner shell leaves its parent's group, so it survives it, and ends
	// only when its stdin does: after it has become ours.
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	a := attrs()
	a.Files[0] = pr.Fd()
	p, err := r.Start(sh("setsid sh -c 'read x' <&0 & exit 3"), a)
	if err != nil {
		t.Fatal(err)
	}
	pr.Close()
	<-p.Done()
	if got := p.Status().ExitStatus(); got != 3 {
		t.Errorf("parent's exit status is %d, want 3", got)
	}
	pw.Close()
	eventually(t, "the orphan is collected", func() bool { return r.Orphans() > before })
}

func TestGroupDiesWithItsLeader(t *testing.T) {
	s, _ := runServices(t, Service{
		Name: "leader", Argv: sh("sleep 1000 & echo child $!; exit 0"),
		Backoff: Backoff{Min: time.Hour, Max: time.Hour},
	})
	var child int
	eventually(t, "the child's pid is logged", func() bool {
		n, _ := fmt.Sscanf(logText(s.Log("leader")), "child %d", &child)
		return n == 1
	})
	eventually(t, "the child is gone", func() bool { return unix.Kill(child, 0) == unix.ESRCH })
}

func TestServiceIsRestartedAndStopped(t *testing.T) {
	s, stop := runServices(t,
		Service{Name: "a", Argv: sh("echo a runs; exec sleep 1000"), Env: os.Environ(), Backoff: Backoff{Min: time.Millisecond}},
		Service{Name: "b", Argv: sh("trap '' TERM; echo b runs; while :; do sleep 1000; done"), Env: os.Environ(), StopTimeout: 50 * time.Millisecond},
	)
	runs := func(n int) func() bool {
		return func() bool { return strings.Count(logText(s.Log("a")), "a runs") == n }
	}
	eventually(t, "a runs", runs(1))
	if err := s.Signal("a", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a runs again", runs(2))
	st := s.Status()[0]
	if st.State != Running || st.Restarts != 1 || st.LastExit != "killed by SIGKILL" {
		t.Errorf("status after a kill: %+v", st)
	}
	eventually(t, "b ignores SIGTERM", func() bool { return strings.Contains(logText(s.Log("b")), "b runs") })
	stop()
	for i, want := range []string{"killed by SIGTERM", "killed by SIGKILL"} {
		if st := s.Status()[i]; st.State != Stopped || st.Pid != 0 || st.LastExit != want {
			t.Errorf("after the stop: %+v, want last exit %q", st, want)
		}
	}
}

func TestServicesStartInOrder(t *testing.T) {
	var list []Service
	for i := range 8 {
		list = append(list, Service{Name: fmt.Sprint(i), Argv: sh("exec sleep 1000"), Env: os.Environ()})
	}
	s, _ := runServices(t, list...)
	eventually(t, "all run", func() bool { return s.Status()[7].Pid != 0 })
	last := time.Hour
	for _, st := range s.Status() {
		if st.Since > last {
			t.Errorf("service %s runs for %s already, the one before it only for %s", st.Name, st.Since, last)
		}
		last = st.Since
	}
}

func TestReadiness(t *testing.T) {
	sock := t.TempDir() + "/sock"
	s, _ := runServices(t,
		Service{Name: "fd", Argv: sh(`read x </dev/null; echo ready >&$CULVERT_READY_FD; exec sleep 1000`), Env: os.Environ(), Ready: Ready{FD: true}},
		Service{Name: "socket", Argv: sh("exec sleep 1000"), Env: os.Environ(), Ready: Ready{Socket: sock}},
		Service{Name: "never", Argv: sh("exec sleep 1000"), Env: os.Environ(), Ready: Ready{FD: true}},
	)
	state := func(i int) State { return s.Status()[i].State }
	eventually(t, "fd is ready", func() bool { return state(0) == Running })
	eventually(t, "socket has started", func() bool { return s.Status()[1].Pid != 0 })
	if got := state(1); got != Starting {
		t.Errorf("without its socket the service is %s", got)
	}
	l, err := unixListen(sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	eventually(t, "socket is ready", func() bool { return state(1) == Running })
	if got := state(2); got != Starting {
		t.Errorf("a service that never says so is %s", got)
	}
}

func TestConfinedServiceHasOnlyItsCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root (to become uid 100)")
	}
	caps := []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW}
	s, _ := runServices(t, Service{
		Name: "edge", Argv: []string{"/bin/cat", "/proc/self/status"}, UID: 100, GID: 100,
		Caps: caps, Confine: true, OOMScoreAdj: 200, Backoff: Backoff{Min: time.Hour, Max: time.Hour},
	})
	eventually(t, "the service has ended", func() bool { return s.Status()[0].State == Waiting })
	got := map[string]string{}
	for line := range strings.Lines(logText(s.Log("edge"))) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			got[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	mask := fmt.Sprintf("%016x", 1<<unix.CAP_NET_BIND_SERVICE|1<<unix.CAP_NET_RAW)
	for k, want := range map[string]string{
		"Uid": "100 100 100 100", "Gid": "100 100 100 100", "Groups": "", "NoNewPrivs": "1",
		"CapInh": mask, "CapPrm": mask, "CapEff": mask, "CapAmb": mask, "CapBnd": mask,
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
	// The supervisor's own first thread lost nothing.
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(own), "CapBnd:\t"+mask) {
		t.Error("the supervisor's own bounding set was dropped")
	}
}

func TestOOMScore(t *testing.T) {
	s, _ := runServices(t, Service{Name: "x", Argv: sh("read l </proc/self/oom_score_adj; echo is $l; exec sleep 1000"), OOMScoreAdj: 321})
	pid := 0
	eventually(t, "it runs", func() bool { pid = s.Status()[0].Pid; return pid != 0 })
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil || strings.TrimSpace(string(b)) != "321" {
		t.Errorf("oom_score_adj is %q (%v), want 321", b, err)
	}
}

func TestNice(t *testing.T) {
	s, _ := runServices(t, Service{Name: "x", Argv: sh("exec cat /proc/self/stat"), Nice: 7, Backoff: Backoff{Min: time.Hour, Max: time.Hour}})
	eventually(t, "it has ended", func() bool { return s.Status()[0].State == Waiting })
	if f := strings.Fields(logText(s.Log("x"))); len(f) < 19 || f[18] != "7" {
		t.Errorf("nice is not 7 in %q (19th)", f)
	}
	if own, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid()); err != nil || own != 20 {
		t.Errorf("the supervisor's own priority is %d (%v), want 20 (nice 0)", own, err)
	}
}

func TestAddRefusesNonsense(t *testing.T) {
	s := New(Options{})
	for _, svc := range []Service{{}, {Name: "x"}, {Name: "x", Argv: sh(""), OOMScoreAdj: 1001}, {Name: "x", Argv: sh(""), Nice: 20}} {
		if err := s.Add(svc); err == nil {
			t.Errorf("accepted %+v", svc)
		}
	}
	ok := Service{Name: "x", Argv: sh("")}
	if err := s.Add(ok); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(ok); err == nil {
		t.Error("accepted a second service of the same name")
	}
}

// fakeProcess ends when told; it sits beside the interface it stands for.
type fakeProcess struct {
	done chan struct{}
	once sync.Once
}

func (p *fakeProcess) Pid() int              { return 4242 }
func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) ExitText() string      { return "exit status 1" }
func (p *fakeProcess) Signal(syscall.Signal) error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func TestBackoffGrowsAndResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		var starts []time.Duration
		begin := time.Now()
		s.start = func(*Service, *Ring, func(string, func()), func()) (process, <-chan struct{}, error) {
			starts = append(starts, time.Since(begin))
			p := &fakeProcess{done: make(chan struct{})}
			switch len(starts) {
			case 3:
				return nil, nil, syscall.ENOENT // counts as a failure like any other
			case 10:
				time.AfterFunc(time.Minute, func() { _ = p.Signal(0) })
			default:
				_ = p.Signal(0)
			}
			return p, nil, nil
		}
		if err := s.Add(Service{Name: "x", Argv: sh("")}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		time.Sleep(10 * time.Minute) // of the bubble's clock
		cancel()
		<-done
		var got []string
		for i := 1; i < min(12, len(starts)); i++ {
			got = append(got, (starts[i] - starts[i-1]).String())
		}
		want := "500ms 1s 2s 4s 8s 16s 30s 30s 30s 1m0.5s 1s"
		if g := strings.Join(got, " "); g != want {
			t.Errorf("pauses are %s\nwant       %s", g, want)
		}
	})
}
