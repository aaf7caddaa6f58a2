// Package reconcile makes the kernel what plan wants: it observes, diffs,
// applies, and observes again. It is the only caller of kernel writers.
package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Target is a state of the kernel: what it should be, or what it is.
type Target struct {
	Net   netstate.State
	Rules *ruleset.Table // nil: there is no table of ours
}

// Phase orders the steps. The rules come first so that nothing is ever open
// that should be closed; what goes comes last so that an interface never
// loses its last address on the way to another one.
type Phase int

// The phases, in order.
const (
	PhaseRules Phase = iota + 1
	PhaseSysctl
	PhaseLinks
	PhaseAddrs
	PhaseRoutes
	PhaseDelete
	PhaseDevices // flowtable devices, which must exist
)

// Action is one change as data: of the network state or of the ruleset.
type Action struct {
	Net *netstate.Change
	// The ruleset changes From To in one transaction.
	From, To *ruleset.Table
}

// Step is one action, how to take it back, and the setting that wants it.
type Step struct {
	Phase Phase
	Do    Action
	Undo  *Action // nil: nothing to take back
	Why   string
	Lines []string // what a ruleset step changes
}

// Text is e.g. "ip addr add 192.168.1.1/24 dev br-lan (lan address)".
func (s Step) Text() string {
	t := s.Do.Text()
	if len(s.Lines) > 0 {
		t += ": " + strings.Join(s.Lines, "; ")
	}
	if s.Why != "" {
		t += " (" + s.Why + ")"
	}
	return t
}

// Text is the action as an admin would type it.
func (a Action) Text() string {
	if a.Net != nil {
		return a.Net.Text()
	}
	return "nft: rewrite table inet culvert"
}

// Plan is what leads from an observed state to the wanted one.
type Plan struct {
	Steps   []Step
	Missing []string // what can't be had, e.g. "interface eth1 does not exist"
	Foreign []string // what is not ours and is left alone
}

// Diff returns the steps from have to want. Diff(x, x) has none. was is the
// table that the observed rules were written from, nil when that is not known:
// then the ruleset step has no Undo.
func Diff(want, have Target, was *ruleset.Table) Plan {
	var p Plan
	diffRules(&p, want, have, was)
	diffNet(&p, want.Net, have.Net)
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return int(a.Phase - b.Phase) })
	return p
}

// Network writes links, addresses and routes (kernel/rtnl).
type Network interface {
	Observe() (netstate.State, error)
	Do(netstate.Change) error
}

// Sysctls writes kernel settings (kernel/sysctl).
type Sysctls interface {
	Observe(want []netstate.Sysctl) ([]netstate.Sysctl, error)
	Do(netstate.Change) error
}

// Firewall writes the one owned table (kernel/nft).
type Firewall interface {
	Observe() (*ruleset.Table, error)
	Apply(from, to *ruleset.Table) error
	// Agreed tells that seen, as Observe gave it, equals want.
	Agreed(want, seen *ruleset.Table)
}

// Kernel is everything that is reconciled.
type Kernel struct {
	Net    Network
	Sysctl Sysctls
	Rules  Firewall
}

// Observe reads the state in full; of the sysctls only those that want names.
func (k Kernel) Observe(want Target) (Target, error) {
	var have Target
	var err error
	if have.Net, err = k.Net.Observe(); err != nil {
		return have, err
	}
	if have.Net.Sysctls, err = k.Sysctl.Observe(want.Net.Sysctls); err != nil {
		return have, err
	}
	have.Rules, err = k.Rules.Observe()
	return have, err
}

func (k Kernel) do(a Action) error {
	switch {
	case a.Net == nil:
		return k.Rules.Apply(a.From, a.To)
	case a.Net.Op == netstate.SetSysctl:
		return k.Sysctl.Do(*a.Net)
	default:
		return k.Net.Do(*a.Net)
	}
}

// Apply does the steps in order. When one fails, those before it are undone in
// reverse, and the error tells what is true now.
func (k Kernel) Apply(steps []Step) error { return k.applyAfter(nil, steps) }

// applyAfter does steps after those that were done already, which an error
// takes back too.
func (k Kernel) applyAfter(done, steps []Step) error {
	for i, s := range steps {
		err := k.do(s.Do)
		if err == nil {
			continue
		}
		before := slices.Concat(done, steps[:i])
		err = fmt.Errorf("step %d of %d failed: %w", len(before)+1, len(done)+len(steps), err)
		if stuck := k.undo(before); stuck != nil {
			return errors.Join(err, fmt.Errorf("taking back the %d steps before it failed too, the router is between two states: %w", len(before), stuck))
		}
		if slices.ContainsFunc(before, func(s Step) bool { return s.Phase == PhaseRules && s.Undo == nil }) {
			return fmt.Errorf("%w; what came before it was taken back, but the new firewall rules stay", err)
		}
		return fmt.Errorf("%w; what came before it was taken back, everything is as it was", err)
	}
	return nil
}

// undo goes on after an error: the more is taken back the better.
func (k Kernel) undo(steps []Step) (err error) {
	for _, s := range slices.Backward(steps) {
		if s.Undo != nil {
			err = errors.Join(err, k.do(*s.Undo))
		}
	}
	return err
}

// rounds is how often Converge applies what differs: a drop in between (a
// driver that settles, another program) is no reason to fail a commit.
const rounds = 2

// Converge brings the kernel to want: observe, diff, apply, observe again, and
// once more when the second diff is not empty. It fails when a step fails or
// when something differs even then. was is as in Diff.
func (k Kernel) Converge(want Target, was *ruleset.Table) (Result, error) {
	have, err := k.Observe(want)
	if err != nil {
		return Result{}, fmt.Errorf("observe the kernel: %w", err)
	}
	diff := func(have Target, was *ruleset.Table) Plan { return Diff(want, have, was) }
	return k.converge(want, have, was, k.Observe, diff)
}

// ConvergeRules is Converge for a want that differs from have, as it was
// observed before, in the rules alone. Only they are read and changed.
func (k Kernel) ConvergeRules(want, have Target, was *ruleset.Table) (Result, error) {
	observe := func(Target) (Target, error) {
		rules, err := k.Rules.Observe()
		return Target{Net: have.Net, Rules: rules}, err
	}
	diff := func(have Target, was *ruleset.Table) (p Plan) {
		diffRules(&p, want, have, was)
		return p
	}
	have, err := observe(want)
	if err != nil {
		return Result{}, fmt.Errorf("observe the kernel: %w", err)
	}
	return k.converge(want, have, was, observe, diff)
}

func (k Kernel) converge(want, have Target, was *ruleset.Table, observe func(Target) (Target, error), diff func(Target, *ruleset.Table) Plan) (Result, error) {
	var err error
	p := diff(have, was)
	res := Result{Have: have}
	var done []Step
	for round := 0; len(p.Steps) > 0 && round < rounds; round++ {
		res.Steps = append(res.Steps, texts(p.Steps)...)
		if err := k.applyAfter(done, p.Steps); err != nil {
			return res, err
		}
		done = append(done, p.Steps...)
		if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Do.Net == nil }) {
			was = want.Rules
		}
		if res.Have, err = observe(want); err != nil {
			return res, fmt.Errorf("observe the kernel after the change: %w", err)
		}
		p = diff(res.Have, was)
	}
	if want.Rules != nil && !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Do.Net == nil }) {
		k.Rules.Agreed(onDevices(want.Rules, res.Have.Net.Links), res.Have.Rules)
	}
	res.Missing, res.Foreign = p.Missing, p.Foreign
	res.Gone = goneAddrs(done, want)
	if len(p.Steps) > 0 {
		return res, &DriftError{Remains: texts(p.Steps)}
	}
	return res, nil
}

func texts(steps []Step) (lines []string) {
	for _, s := range steps {
		lines = append(lines, s.Text())
	}
	return lines
}

// DriftError tells that every step went well and the kernel still differs.
type DriftError struct {
	Remains []string // the steps that are still to be done
}

func (e *DriftError) Error() string {
	return "applied, but the kernel still differs: " + strings.Join(e.Remains, "; ")
}

// Result is what a Converge did.
type Result struct {
	Steps   []string     // what was done, one line each
	Missing []string     // what can't be had, e.g. an interface
	Foreign []string     // what is not ours and was left alone
	Gone    []netip.Addr // addresses the router no longer has
	Have    Target       // the last observation
}

// goneAddrs lists the addresses that the steps took and no link has now.
func goneAddrs(steps []Step, want Target) (gone []netip.Addr) {
	for _, s := range steps {
		if c := s.Do.Net; c != nil && c.Op == netstate.DeleteAddr {
			a := c.Addr.Prefix.Addr()
			if !slices.ContainsFunc(want.Net.Addrs, func(w netstate.Addr) bool { return w.Prefix.Addr() == a }) {
				gone = append(gone, a)
			}
		}
	}
	return gone
}
