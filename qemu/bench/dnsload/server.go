package dnsload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// server is a name server that runs.
type server struct {
	name string
	at   netip.AddrPort
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
}

// startBoth starts Culvert's server, then dnsmasq, and waits until both answer.
// What is started is returned also with an error.
func startBoth(ctx context.Context, o Options) (servers []*server, err error) {
	culvert := append([]string{"-listen", culvertAt.String(), "-upstream", upstreamAt.String(), "-cache", strconv.Itoa(cacheSize)}, o.CulvertArgs...)
	for _, s := range []struct {
		name string
		at   netip.AddrPort
		cmd  *exec.Cmd
	}{
		{"culvert", culvertAt, exec.Command(o.Culvert, culvert...)},
		{"dnsmasq", dnsmasqAt, exec.Command(o.Dnsmasq, dnsmasqArgs()...)},
	} {
		// As init starts edge; dnsmasq has no use for it.
		s.cmd.Env = append(os.Environ(), "GOGC=50", "GOMEMLIMIT=20MiB")
		started, err := start(ctx, s.name, s.at, s.cmd)
		if err != nil {
			return servers, err
		}
		servers = append(servers, started)
	}
	return servers, nil
}

// dnsmasqArgs make dnsmasq do what Culvert's server does by default: the same
// cache, a local zone, no private addresses asked of the upstream, and EDNS of
// the same size.
func dnsmasqArgs() []string {
	return []string{
		"--conf-file=/dev/null", "--keep-in-foreground", "--user=", "--pid-file", "--no-resolv", "--no-hosts",
		"--bind-interfaces", "--listen-address=" + dnsmasqAt.Addr().String(), fmt.Sprint("--port=", dnsmasqAt.Port()),
		fmt.Sprintf("--server=%v#%d", upstreamAt.Addr(), upstreamAt.Port()),
		fmt.Sprint("--cache-size=", cacheSize), "--domain=lan", "--local=/lan/", "--bogus-priv", "--edns-packet-max=1232",
		"--address=/culvert.lan/" + dnsmasqAt.Addr().String(), "--log-facility=-",
	}
}

func start(ctx context.Context, name string, at netip.AddrPort, cmd *exec.Cmd) (*server, error) {
	s := &server{name: name, at: at, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() { _ = cmd.Wait(); close(s.done) }()
	for end := time.Now().Add(10 * time.Second); ; {
		err := s.answers(ctx)
		if err == nil {
			return s, nil
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("%s ended: %v: %s", name, cmd.ProcessState, s.out.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("%s does not answer: %w: %s", name, err, s.out.Bytes()), s.stop())
		}
	}
}

func (s *server) answers(ctx context.Context) error {
	c, err := newClient(s.at)
	if err != nil {
		return err
	}
	defer c.close()
	return c.ask(ctx, names{prefix: "ready", n: 1}, 1)
}

// stop ends the server, if it has not ended by itself, and waits for it.
func (s *server) stop() error {
	select {
	case <-s.done:
		return fmt.Errorf("%s ended before its time: %v: %s", s.name, s.cmd.ProcessState, s.out.Bytes())
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	return nil
}

// settle is how long a server gets to come to rest, so that all it did for the
// queries is counted.
const settle = 20 * time.Millisecond

// cpu is the time that all threads of s have run, in the program and in the
// kernel. It is exact for threads that sleep.
func (s *server) cpu() (time.Duration, error) {
	time.Sleep(settle)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no schedstat of %s: %v", s.name, err)
	}
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return 0, fmt.Errorf("a thread of %s ended: %w", s.name, err)
		}
		first, _, _ := bytes.Cut(b, []byte{' '})
		ns, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
