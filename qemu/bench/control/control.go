// Package control measures the router's control plane: it talks to a running
// netd over the API socket, as the shell does, and counts what the processes
// of the router spend on the answer. It runs beside netd in network namespaces
// of the host and on the router itself.
package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Router is a running netd.
type Router struct {
	API *api.Client
	// PID is netd's.
	PID int
	// All counts the CPU time of every process but the caller instead of
	// netd's alone: on the router nothing else runs.
	All bool
}

// Cost is what one request took.
type Cost struct {
	CPU  time.Duration // on a CPU, of netd or (Router.All) of all other processes
	Self time.Duration // on a CPU, of the caller: its side of the protocol
	Wall time.Duration // from the request to the answer; without CPU it is waits
	// Written are the bytes that netd gave to the disk; 0 on a kernel that does
	// not count them (CONFIG_TASK_IO_ACCOUNTING), as the router's.
	Written int64
	// Peak is how much more resident memory netd had than before, in bytes. On a
	// kernel without CONFIG_PROC_PAGE_MONITOR it means nothing: the peak is that
	// since netd's start.
	Peak int64
}

// String is for people.
func (c Cost) String() string {
	return fmt.Sprintf("cpu %.3f ms, own %.3f ms, wall %.3f ms, written %d B, peak %d kB",
		ms(c.CPU), ms(c.Self), ms(c.Wall), c.Written, c.Peak>>10)
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// author is how the measurement presents itself.
var author = api.Author{Via: "serial"}

// settle is how long netd has after an answer to finish what it began: a
// kernel event makes it look at the kernel again 100 ms later.
const settle = 300 * time.Millisecond

// Measure counts what f takes, and what netd does because of it until it rests.
func (r *Router) Measure(f func() error) (Cost, error) {
	var c Cost
	if err := resetPeak(r.PID); err != nil {
		return c, err
	}
	before, err := r.read()
	if err != nil {
		return c, err
	}
	if before.self, err = processCPU("self"); err != nil { // again, for all that reading
		return c, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return c, err
	}
	c.Wall = time.Since(start)
	self, err := processCPU("self")
	if err != nil {
		return c, err
	}
	time.Sleep(settle)
	after, err := r.read()
	if err != nil {
		return c, err
	}
	c.CPU, c.Self = after.cpu-before.cpu, self-before.self
	c.Written = after.written - before.written
	c.Peak = after.peak - before.resident
	return c, nil
}

// ErrUnchanged is a commit that nothing came of: there is nothing to measure.
var ErrUnchanged = errors.New("the commit changed nothing")

// Running fetches the running settings and their revision.
func (r *Router) Running(ctx context.Context) (*settings.Settings, int, error) {
	var reply api.SettingsReply
	if err := r.API.Call(ctx, api.MethodSettings, api.RevisionParams{}, &reply); err != nil {
		return nil, 0, err
	}
	s, problems := settings.Parse(reply.Settings)
	if len(problems) > 0 {
		return nil, 0, problems
	}
	return s, reply.Revision, nil
}

// Commit makes change the running settings and tells what that took. What the
// caller does to fetch and to change the settings does not count.
func (r *Router) Commit(ctx context.Context, change func(*settings.Settings)) (Cost, error) {
	s, base, err := r.Running(ctx)
	if err != nil {
		return Cost{}, err
	}
	old := s.Clone()
	change(s)
	patch := s.Patch(old) // as the shell sends it
	return r.Measure(func() error {
		var reply api.CommitReply
		err := r.API.Call(ctx, api.MethodCommit, api.CommitParams{Base: base, Patch: patch, Author: author}, &reply)
		if err == nil && reply.Unchanged {
			err = ErrUnchanged
		}
		return err
	})
}

// SetForwards commits a table of n port forwards, in place of those there are.
func (r *Router) SetForwards(ctx context.Context, n int) (Cost, error) {
	return r.Commit(ctx, func(s *settings.Settings) {
		s.Firewall.Forwards = map[string]settings.Forward{}
		for i := range n {
			addForward(s, i)
		}
	})
}

// AddForward commits one port forward more.
func (r *Router) AddForward(ctx context.Context, i int) (Cost, error) {
	return r.Commit(ctx, func(s *settings.Settings) { addForward(s, i) })
}

// addForward adds the forward number i, to one of 100 devices of the LAN.
func addForward(s *settings.Settings, i int) {
	if s.Firewall.Forwards == nil {
		s.Firewall.Forwards = map[string]settings.Forward{}
	}
	to := s.LAN.Address.Masked().Addr().As4()
	to[3] = byte(100 + i%100)
	s.Firewall.Forwards["f"+strconv.Itoa(i)] = settings.Forward{
		Enabled: true, Protocol: settings.TCP, Port: 20000 + i, To: netip.AddrFrom4(to)}
}

// SetCache commits one small setting that needs no change of the kernel: how
// many answers the DNS cache keeps.
func (r *Router) SetCache(ctx context.Context, n int) (Cost, error) {
	return r.Commit(ctx, func(s *settings.Settings) { s.DNS.CacheSize = n })
}
