package netd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	beevik "github.com/beevik/ntp"

	"github.com/culvert-fw/culvert/firmware/ntp"
	"github.com/culvert-fw/culvert/firmware/store"
)

// timeServers are names that resolve, or don't, and answer, or don't.
type timeServers struct {
	mu                sync.Mutex
	resolves, answers bool
}

func (s *timeServers) are(resolves, answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resolves, s.answers = resolves, answers
}

func (s *timeServers) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.resolves {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

func (s *timeServers) query(context.Context, netip.Addr) (*beevik.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.answers {
		return nil, errors.New("i/o timeout")
	}
	return &beevik.Response{Time: rightTime(), ReferenceTime: rightTime(), Stratum: 2}, nil
}

// rightTime is the time of the bubble, in this century.
func rightTime() time.Time { return time.Now().AddDate(30, 0, 0) }

// TestClockProblem: people are told what keeps the clock from being right, not
// before it had time to be, and not when it is.
func TestClockProblem(t *testing.T) {
	kept, _, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		servers := &timeServers{}
		d := &daemon{log: slog.New(slog.DiscardHandler), state: kept.Bucket("state"), wake: make(chan struct{}, 1)}
		c := &clock{d: d, options: ntp.Options{
			Set: func(time.Time) error { return nil }, Now: rightTime, Resolver: servers, Query: servers.query,
		}}
		names := []string{"0.pool.example", "1.pool.example"}
		upstreams := []netip.Addr{netip.MustParseAddr("192.0.2.53")}
		told := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			p := c.problem()
			if len(want) == 0 && p != "" {
				t.Errorf("%s: told %q", when, p)
			}
			for _, w := range want {
				if !strings.Contains(p, w) {
					t.Errorf("%s: told %q, want %q in it", when, p, w)
				}
			}
		}
		c.set(ctx, names, nil, false)
		time.Sleep(time.Hour)
		told("without a WAN")
		c.set(ctx, names, nil, true)
		time.Sleep(clockPatience - time.Second)
		told("soon after the WAN came up")
		time.Sleep(time.Second)
		told("names do not resolve", "not set since the boot", "do not resolve", "1.pool.example", "Fix: set ")
		servers.are(true, false)
		c.set(ctx, names, upstreams, true)
		told("servers do not answer", "no NTP server answers", "i/o timeout")
		servers.are(true, true)
		c.set(ctx, names, nil, true)
		told("it works")
		servers.are(true, false)
		time.Sleep(22 * time.Minute) // the next query, up to 19 minutes later, and clockPatience
		told("no answers any more", "was last checked at 20", "no NTP server answers")
		c.set(ctx, nil, nil, true)
		told("nobody wants the clock to be set")
		cancel()
		synctest.Wait()
	})
}
