// Package apitest is a network manager in memory, for tests of those who talk
// to one: real transport, real settings, no network.
package apitest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Netd keeps settings and revisions in memory and counts what it was asked.
type Netd struct {
	Socket string
	Now    func() time.Time

	mu      sync.Mutex
	running *settings.Settings
	revs    []api.Revision
	trees   []*settings.Settings
	claim   *api.Claim
	changed chan struct{}
	config  api.EdgeConfig
	calls   []string
	Notes   api.LoginNotes
	Answers map[string]any // canned results, by method
	// CommitNotes are what every commit tells.
	CommitNotes []string
	stop        context.CancelFunc
	finished    chan struct{}
}

// New makes a netd with default settings as revision 1; Start makes it answer.
func New(t testing.TB) *Netd {
	n := &Netd{
		Socket:  filepath.Join(t.TempDir(), "api.sock"),
		Now:     func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
		running: settings.Default(),
		changed: make(chan struct{}),
		Answers: map[string]any{},
	}
	n.record(n.running, api.Author{}, "first boot")
	return n
}

// Start answers on the socket until the test ends or Stop.
func (n *Netd) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := api.Listen(ctx, n.Socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.stop, n.finished = cancel, make(chan struct{})
	go func() {
		defer close(n.finished)
		allow := func(uid uint32) bool { return uid == 0 || uid == 100 || uid == uint32(os.Getuid()) }
		api.Serve(ctx, ln, api.Options{Allow: allow, Handlers: n.handlers(), Streams: map[string]api.StreamHandler{ //nolint:errcheck // ends with ctx
			api.MethodEdgeWatch: api.HandleStream(n.watch)}, Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(n.Stop)
}

// Stop ends it as a crash would; Start may follow.
func (n *Netd) Stop() {
	n.stop()
	<-n.finished
}

// SetConfig changes what edge is told; credentials come from the settings.
func (n *Netd) SetConfig(f func(*api.EdgeConfig)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.config)
	n.wake()
}

// Settings are the running ones.
func (n *Netd) Settings() *settings.Settings {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running.Clone()
}

// Edit makes a revision as another admin would.
func (n *Netd) Edit(t testing.TB, by api.Author, words ...string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.running.Clone()
	if err := settings.Set(next, words); err != nil {
		t.Fatal(err)
	}
	n.record(next, by, "")
}

// Claim tells who owns it, nil for nobody.
func (n *Netd) Claim() *api.Claim {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.claim
}

// Calls are the methods called so far.
func (n *Netd) Calls() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.calls...)
}

func (n *Netd) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Netd) record(s *settings.Settings, a api.Author, message string) int {
	r := api.Revision{N: len(n.revs) + 1, Time: n.Now(), Author: a, Message: message, State: "confirmed", Lines: settings.Compare(n.running, s)}
	n.revs, n.trees, n.running = append(n.revs, r), append(n.trees, s), s
	n.wake()
	return r.N
}

func (n *Netd) watch(ctx context.Context, _ api.Peer, _ api.EdgeHello, send func(api.EdgeConfig) error) error {
	for {
		n.mu.Lock()
		c := n.config
		c.Password, c.Keys = string(n.running.System.Admin.Password), n.running.System.Admin.Keys
		c.Claimed = c.Password != "" || len(c.Keys) > 0
		c.Hostname = n.running.System.Hostname
		changed := n.changed
		n.mu.Unlock()
		if err := send(c); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type none = struct{}

// locked makes a handler that has n to itself.
func locked[P, R any](n *Netd, method string, f func(P) (R, error)) api.Handler {
	return api.Handle(func(_ context.Context, _ api.Peer, p P) (R, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.calls = append(n.calls, method)
		return f(p)
	})
}

func (n *Netd) handlers() map[string]api.Handler {
	h := map[string]api.Handler{}
	for m, answer := range n.Answers {
		h[m] = locked(n, m, func(none) (any, error) {
			if st, ok := answer.(api.Status); ok {
				st.SerialOpen = st.Claimed && n.running.System.Admin.Password == ""
				return st, nil
			}
			return answer, nil
		})
	}
	for _, m := range []string{api.MethodReboot, api.MethodPoweroff, api.MethodReset, api.MethodEdgeStats} {
		h[m] = locked(n, m, func(none) (any, error) { return nil, nil })
	}
	h[api.MethodSettings] = locked(n, api.MethodSettings, n.settings)
	h[api.MethodCommit] = locked(n, api.MethodCommit, n.commit)
	h[api.MethodConfirm] = locked(n, api.MethodConfirm, func(api.Author) (api.CommitReply, error) {
		return api.CommitReply{Revision: len(n.revs)}, nil
	})
	h[api.MethodRollback] = locked(n, api.MethodRollback, func(p api.RollbackParams) (api.CommitReply, error) {
		if p.N > len(n.trees) {
			return api.CommitReply{}, &api.Error{Code: "invalid", Text: fmt.Sprintf("There is no revision %d.", p.N)}
		}
		if p.Preview {
			return api.CommitReply{Revision: len(n.revs), Notes: n.CommitNotes}, nil
		}
		return api.CommitReply{Revision: n.record(n.trees[p.N-1], p.Author, fmt.Sprintf("rollback %d", p.N))}, nil
	})
	h[api.MethodHistory] = locked(n, api.MethodHistory, func(none) ([]api.Revision, error) { return n.revs, nil })
	h[api.MethodLoginNote] = locked(n, api.MethodLoginNote, func(api.Author) (api.LoginNotes, error) {
		notes := n.Notes
		notes.Claim = n.claim
		return notes, nil
	})
	h[api.MethodClaim] = locked(n, api.MethodClaim, n.doClaim)
	h[api.MethodPassword] = locked(n, api.MethodPassword, func(p api.PasswordParams) (any, error) {
		s := n.running.Clone()
		s.System.Admin.Password = settings.Secret(p.Hash)
		n.record(s, p.Author, "password")
		return nil, nil
	})
	h[api.MethodAddKey] = locked(n, api.MethodAddKey, func(p api.KeyParams) (any, error) {
		s := n.running.Clone()
		s.System.Admin.Keys = append(s.System.Admin.Keys, p.Key)
		n.record(s, p.Author, "key")
		return nil, nil
	})
	return h
}

func (n *Netd) settings(p api.RevisionParams) (api.SettingsReply, error) {
	s, rev := n.running, len(n.revs)
	if p.N != 0 {
		if p.N > len(n.trees) {
			return api.SettingsReply{}, &api.Error{Code: "invalid", Text: fmt.Sprintf("There is no revision %d.", p.N)}
		}
		s, rev = n.trees[p.N-1], p.N
	}
	return api.SettingsReply{Revision: rev, Settings: s.Redacted().Compact()}, nil
}

func (n *Netd) commit(p api.CommitParams) (api.CommitReply, error) {
	if p.Base != len(n.revs) {
		last := n.revs[len(n.revs)-1]
		return api.CommitReply{}, &api.Error{Code: "conflict", Text: "the settings changed", By: "revision " + fmt.Sprint(last.N) + " by " + last.Author.Via,
			Changed: settings.Compare(n.trees[p.Base-1], n.running)}
	}
	s, ps := n.candidate(p)
	if len(ps) > 0 {
		return api.CommitReply{}, ps
	}
	s.MergeSecrets(n.running)
	if ps := s.Validate(); len(ps) > 0 {
		return api.CommitReply{}, ps
	}
	if p.Preview {
		return api.CommitReply{Revision: len(n.revs), Notes: n.CommitNotes}, nil
	}
	r := api.CommitReply{Revision: n.record(s, p.Author, p.Message), ConfirmIn: p.Confirm, Notes: n.CommitNotes}
	return r, nil
}

func (n *Netd) candidate(p api.CommitParams) (*settings.Settings, settings.Problems) {
	if len(p.Patch) > 0 {
		return n.running.Patched(p.Patch)
	}
	return settings.Parse(p.Settings)
}

func (n *Netd) doClaim(p api.ClaimParams) (api.Claim, error) {
	if n.claim != nil {
		return api.Claim{}, &api.Error{Code: "denied", Text: "The router has an owner already."}
	}
	c := api.Claim{Time: n.Now(), Author: p.Author, With: "password"}
	c.Author.Conn = nil
	s := n.running.Clone()
	s.System.Admin.Password = settings.Secret(p.Password)
	if p.Key != "" {
		c.With = "a key"
		s.System.Admin.Keys = []string{p.Key}
	}
	if c.Author.Addr.IsValid() && c.Author.Addr != netip.IPv4Unspecified() {
		c.Author.MAC = "02:00:00:00:00:01"
	}
	n.claim = &c
	n.record(s, p.Author, "claim")
	return c, nil
}
