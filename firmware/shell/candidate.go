package shell

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// candidate is the settings a person is changing, and what they started from.
type candidate struct {
	revision int
	base     *settings.Settings
	next     *settings.Settings
}

func (c *candidate) changed() bool {
	return c != nil && len(settings.Compare(c.base, c.next)) > 0
}

// ifChanged is c, or nil when nothing would be lost by starting anew.
func (c *candidate) ifChanged() *candidate {
	if c.changed() {
		return c
	}
	return nil
}

// fetch fetches revision n, 0 for the running settings.
func (s *Shell) fetch(ctx context.Context, n int) (int, *settings.Settings, error) {
	var r api.SettingsReply
	if err := s.o.API.Call(ctx, api.MethodSettings, api.RevisionParams{N: n}, &r); err != nil {
		return 0, nil, err
	}
	var t settings.Settings
	if err := json.Unmarshal(r.Settings, &t); err != nil {
		return 0, nil, fmt.Errorf("the network manager's settings: %w", err)
	}
	return r.Revision, &t, nil
}

// candidate is the session's candidate; while it has no changes it follows
// the running settings.
func (s *Shell) candidate(ctx context.Context) (*candidate, error) {
	if s.cand.changed() {
		return s.cand, nil
	}
	n, t, err := s.fetch(ctx, 0)
	if err != nil {
		return nil, err
	}
	s.cand = &candidate{revision: n, base: t, next: t.Clone()}
	return s.cand, nil
}

// rebase moves the candidate's changes onto newer settings. It returns the
// paths that both sides changed differently; then nothing is moved.
func (c *candidate) rebase(revision int, newer *settings.Settings) ([]string, error) {
	var base, mine, theirs map[string]any
	for _, p := range []struct {
		from *settings.Settings
		to   *map[string]any
	}{{c.base, &base}, {c.next, &mine}, {newer, &theirs}} {
		raw, err := json.Marshal(p.from)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, p.to); err != nil {
			return nil, err
		}
	}
	var clashes []string
	merged := merge(base, mine, theirs, nil, &clashes)
	if len(clashes) > 0 {
		slices.Sort(clashes)
		return slices.Compact(clashes), nil
	}
	raw, err := json.Marshal(merged)
	if err != nil {
		return nil, err
	}
	next := new(settings.Settings)
	if err := json.Unmarshal(raw, next); err != nil {
		return nil, err
	}
	*c = candidate{revision: revision, base: newer, next: next}
	return nil, nil
}

// merge is a three-way merge of JSON trees: what I changed, else what they
// have. nil stands for "not there".
func merge(base, mine, theirs any, path []string, clashes *[]string) any {
	if reflect.DeepEqual(mine, base) || reflect.DeepEqual(mine, theirs) {
		return theirs
	}
	if reflect.DeepEqual(theirs, base) {
		return mine
	}
	m, mok := mine.(map[string]any)
	t, tok := theirs.(map[string]any)
	if !mok || !tok {
		*clashes = append(*clashes, strings.Join(path, " "))
		return nil
	}
	b, _ := base.(map[string]any)
	out := map[string]any{}
	for _, side := range []map[string]any{m, t} {
		for k := range side {
			if _, done := out[k]; done {
				continue
			}
			if v := merge(b[k], m[k], t[k], append(path[:len(path):len(path)], k), clashes); v != nil {
				out[k] = v
			}
		}
	}
	return out
}
