package netd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/reconcile"
	"github.com/culvert-fw/culvert/firmware/reconcile/confirm"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// autoConfirm is how long a commit that may cut its own session waits.
const autoConfirm = 2 * time.Minute

// large is a commit, in bytes, whose garbage is not collected before its end.
const large = 32 << 10

// running are the settings in force; nobody writes to them.
func (d *daemon) running() *settings.Settings { return d.commits.State().Running.Settings }

// plan decides what the router should be with these settings and all that is known.
func (d *daemon) plan(s *settings.Settings) (*plan.Desired, settings.Problems) {
	return plan.For(d.planBoard, s, d.known(), d.planOptions(s))
}

// planOptions are the same for all plans at one moment. What is planned was
// validated before: by the first plan after the start, then by each commit.
func (d *daemon) planOptions(s *settings.Settings) plan.Options {
	byHand := d.chosen() || d.setsLAN(s)
	d.mu.Lock()
	defer d.mu.Unlock()
	return plan.Options{LANByHand: byHand, LANUnsettled: !d.leased, LANPortsDown: d.portsDown, Before: d.want, Valid: d.want != nil}
}

// setsLAN tells whether s, not confirmed yet, has its LAN address from a person:
// one who said another address than the one in effect.
func (d *daemon) setsLAN(s *settings.Settings) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tried == s.LAN.Address
}

// inEffect are the running settings as they are carried out: with the LAN where
// it is, if it moved by itself.
func (d *daemon) inEffect() *settings.Settings {
	s := d.running()
	return plan.InEffect(s, d.known(), d.planOptions(s))
}

// effective are the settings carried out last. While a commit is under way they
// are ahead of the running ones: a new plan must not take it back.
func (d *daemon) effective() *settings.Settings {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.carried != nil {
		return d.carried
	}
	return d.running()
}

// carry keeps what is carried out, and the LAN address that a commit which
// nobody has confirmed yet sets by hand.
func (d *daemon) carry(s *settings.Settings, tried netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.carried, d.tried = s, tried
}

// apply carries settings out, or leaves everything as it was. What it starts
// lives as long as netd: the session that commits may be gone before the end.
func (d *daemon) apply(ctx context.Context, s *settings.Settings) error {
	d.applyMu.Lock()
	defer d.applyMu.Unlock()
	d.mu.Lock()
	tried := d.tried
	d.mu.Unlock()
	o := d.planOptions(s)
	if confirm.IsAnew(ctx) {
		o.LANByHand, tried = true, s.LAN.Address
	}
	want, problems := plan.For(d.planBoard, s, d.known(), o)
	if len(problems) > 0 {
		return problems
	}
	old := d.effective()
	_, err := d.rec.Apply(d.life, reconcile.Target{Net: want.Net, Rules: want.Rules}, func() error {
		return d.endConnections(firewall.Ended(old, s, d.known()))
	})
	if err != nil {
		return err
	}
	d.carry(s, tried)
	d.remember(want)
	d.serve(d.life, want)
	return nil
}

// restore carries out settings that were in force before; where that fails the
// reconcile loop keeps at it.
func (d *daemon) restore(_ context.Context, s *settings.Settings) error {
	d.applyMu.Lock()
	defer d.applyMu.Unlock()
	old := d.effective()
	d.carry(s, netip.Prefix{})
	if err := d.converge(d.life); err != nil {
		return err
	}
	return d.endConnections(firewall.Ended(old, s, d.known()))
}

// commit is api.MethodCommit.
func (d *daemon) commit(ctx context.Context, _ api.Peer, p api.CommitParams) (*api.CommitReply, error) {
	if len(p.Patch)+len(p.Settings) > large {
		defer spacious.begin()()
	}
	var candidate *settings.Settings
	var problems settings.Problems
	if len(p.Patch) > 0 {
		state := d.commits.State()
		if p.Base != state.Running.N {
			return nil, d.commitError(&confirm.ConflictError{Base: p.Base, Running: state.Running}, p.Base)
		}
		candidate, problems = d.inEffect().Patched(p.Patch)
	} else {
		candidate, problems = settings.Parse(p.Settings)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return d.commitSettings(ctx, candidate, p)
}

// commitSettings commits candidate as p says.
func (d *daemon) commitSettings(ctx context.Context, candidate *settings.Settings, p api.CommitParams) (*api.CommitReply, error) {
	author, base, wait := d.named(p.Author), p.Base, p.Confirm
	state := d.commits.State()
	candidate.MergeSecrets(state.Running.Settings)
	// Who may log in changes by the commands for it alone: a candidate that
	// was begun before such a change must not take it back.
	var notes []string
	admin := state.Running.Settings.System.Admin
	if a := candidate.System.Admin; a.Password != admin.Password || !slices.Equal(a.Keys, admin.Keys) {
		notes = append(notes, "Who may log in stays as it is: to change that, type password, key add or key remove")
	}
	candidate.System.Admin = admin
	if problems := candidate.Validate(); len(problems) > 0 {
		return nil, problems
	}
	notes = append(notes, passthrough.Notes(state.Running.Settings.Passthrough, candidate.Passthrough)...)
	byHand := candidate.LAN.Address != d.inEffect().LAN.Address
	if note := d.cuts(candidate, byHand, author); note != "" && base == state.Running.N {
		if wait == 0 {
			wait = autoConfirm
			note += fmt.Sprintf(" It goes back in %v unless you log in there and type: confirm", wait)
		}
		notes = append(notes, note)
	}
	if p.Preview {
		return d.reply(state, false, notes), nil
	}
	if byHand {
		// Where the LAN moved by itself, its settings may say this already.
		ctx = confirm.Anew(ctx)
		if p.Message == "" && candidate.Equal(state.Running.Settings) {
			p.Message = "lan address " + candidate.LAN.Address.String() + ", set by hand"
		}
	}
	defer d.servers.prepare(ctx, candidate.Passthrough.ServerNames())()
	next, changed, err := d.commits.Commit(confirm.Valid(ctx), base, candidate, d.meta(author, p.Message), wait)
	if err != nil {
		return nil, d.commitError(err, base)
	}
	if changed {
		d.mu.Lock()
		d.undone = ""
		d.mu.Unlock()
	}
	if changed && !next.Pending() && d.setsLAN(candidate) {
		d.choose()
	}
	d.publish()
	return d.reply(next, !changed, notes), nil
}

// choose keeps that a person set the LAN's address: it never moves by itself
// again, not even when it is the default one.
func (d *daemon) choose() {
	d.mu.Lock()
	d.byHand, d.tried = true, netip.Prefix{}
	d.mu.Unlock()
	if err := d.state.Put(keyByHand, []byte{1}); err != nil {
		d.log.Warn("that the LAN address was set by hand is not kept", "err", err)
	}
	d.replan()
}

func (d *daemon) chosen() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byHand
}

// cuts says that a commit may end the very session it comes over, "" if not.
func (d *daemon) cuts(candidate *settings.Settings, byHand bool, author api.Author) string {
	if author.Conn == nil {
		return ""
	}
	o := d.planOptions(candidate)
	o.LANByHand = o.LANByHand || byHand
	want, problems := plan.For(d.planBoard, candidate, d.known(), o)
	if len(problems) > 0 {
		return ""
	}
	cut, address := plan.CutsSession(d.desired(), want, d.known(), plan.Conn(*author.Conn))
	if !cut {
		return ""
	}
	return "This may cut your session. The router answers at " + address + " then."
}

// reply tells about a state, times as what is left of them.
func (d *daemon) reply(s confirm.State, unchanged bool, notes []string) *api.CommitReply {
	r := &api.CommitReply{Revision: s.Running.N, Unchanged: unchanged, Notes: notes}
	if s.Pending() {
		r.ConfirmBy = s.Deadline
		r.ConfirmIn = max(time.Until(s.Deadline), time.Second)
	}
	return r
}

// commitError makes a conflict tell what the other admin changed.
func (d *daemon) commitError(err error, base int) error {
	var conflict *confirm.ConflictError
	switch {
	case errors.As(err, &conflict):
		e := &api.Error{Code: "conflict"}
		e.Text = fmt.Sprintf("Revision %d runs now, your changes started from %d. Nothing was changed.", conflict.Running.N, base)
		if r, _, err := d.store.Get(conflict.Running.N); err == nil {
			e.By = who(d.revision(r).Author) + " at " + r.Time.Format(time.DateTime)
		}
		if _, old, err := d.store.Get(base); err == nil {
			e.Changed = settings.Compare(old, conflict.Running.Settings)
		}
		return e
	case errors.Is(err, confirm.ErrPending), errors.Is(err, confirm.ErrNothingPending):
		return &api.Error{Code: "failed", Text: sentence(err.Error())}
	}
	return err
}

// sentence makes an error a sentence for a person.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// who names an author for a person.
func who(a api.Author) string {
	s := "the serial console"
	if a.Via != "serial" {
		s = a.Via
		if a.Addr.IsValid() {
			s += " from " + a.Addr.String()
		}
	}
	if a.Key != "" {
		s += ", key " + a.Key
	}
	return s
}

// confirmPending is api.MethodConfirm.
func (d *daemon) confirmPending(_ context.Context, _ api.Peer, a api.Author) (*api.CommitReply, error) {
	setsLAN := d.setsLAN(d.running())
	s, err := d.commits.Confirm()
	if err != nil {
		return nil, d.commitError(err, 0)
	}
	if err := d.keepConfirmer(s.Running.N, d.named(a)); err != nil {
		d.log.Warn("who confirmed is not kept", "revision", s.Running.N, "err", err)
	}
	if setsLAN {
		d.choose()
	}
	return d.reply(s, false, nil), nil
}

// rollback is api.MethodRollback: the settings of an old revision as a new one.
func (d *daemon) rollback(ctx context.Context, _ api.Peer, p api.RollbackParams) (*api.CommitReply, error) {
	_, old, err := d.store.Get(p.N)
	if err != nil {
		return nil, err
	}
	// Old settings that never said where the LAN is leave it where it went.
	old = plan.InEffect(old, d.known(), d.planOptions(old))
	return d.commitSettings(ctx, old, api.CommitParams{
		Base: d.commits.State().Running.N, Author: p.Author, Message: fmt.Sprintf("rollback to revision %d", p.N), Preview: p.Preview,
	})
}

// settingsOf is api.MethodSettings. The running ones are those in effect: a
// person whose LAN moved by itself goes on from where it is now.
func (d *daemon) settingsOf(_ context.Context, _ api.Peer, p api.RevisionParams) (*api.SettingsReply, error) {
	s, n := d.inEffect(), d.commits.State().Running.N
	if p.N != 0 {
		var err error
		if _, s, err = d.store.Get(p.N); err != nil {
			return nil, err
		}
		n = p.N
	}
	return &api.SettingsReply{Revision: n, Settings: s.Redacted().Compact()}, nil
}

// named fills in the hardware address of an author on the LAN.
func (d *daemon) named(a api.Author) api.Author {
	if a.Addr.IsValid() {
		a.MAC = macOf(a.Addr.Unmap().String())
	}
	return a
}
