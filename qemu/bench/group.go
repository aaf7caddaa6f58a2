package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
)

// Group is rows that one run of something measures.
type Group struct {
	Name   string
	Ground string   // QEMUMIPS or AMD64
	Rows   []string // the IDs of the rows it measures, in the table's order
	// Run measures. It runs as root, in a process and a network namespace of its
	// own, which go with it. It may leave out a row that Env does not want, and gives
	// every other row of Rows; rows come with an error when it got as far as them.
	Run func(ctx context.Context, env *Env) ([]Row, error)
}

// Env is what a group has to go by.
type Env struct {
	Root   string         // the source tree, with go.mod
	Out    string         // where logs and profiles go: out/bench
	Select *regexp.Regexp // of the rows' IDs; nil wants all
	Log    io.Writer      // what happens, for the person who waits
}

// Wants tells whether the row with this ID is asked for.
func (e *Env) Wants(id string) bool { return e.Select == nil || e.Select.MatchString(id) }

// Logf tells the person who waits what happens now.
func (e *Env) Logf(format string, args ...any) { fmt.Fprintf(e.Log, "  "+format+"\n", args...) }

// Wanted is the rows of g that are asked for; a group without any is not run.
func (e *Env) Wanted(g Group) []string {
	var ids []string
	for _, id := range g.Rows {
		if e.Wants(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Measure runs g here and keeps the rows that were asked for. A panic, a row that
// Check refuses and a row that did not come are failures like an error of Run.
func Measure(ctx context.Context, g Group, env *Env) (result Result) {
	result = Result{Group: g.Name, Ground: g.Ground, Rows: []Row{}}
	rows, err := protected(ctx, g, env)
	failures := []error{err}
	for _, id := range env.Wanted(g) {
		i := slices.IndexFunc(rows, func(r Row) bool { return r.ID == id })
		switch {
		case i >= 0 && rows[i].Check() != nil:
			failures = append(failures, rows[i].Check())
		case i >= 0:
			result.Rows = append(result.Rows, rows[i])
		case err == nil:
			failures = append(failures, fmt.Errorf("row %q did not come", id))
		}
	}
	for _, r := range rows {
		if !slices.Contains(g.Rows, r.ID) {
			failures = append(failures, fmt.Errorf("row %q came and is not announced", r.ID))
		}
	}
	if err := errors.Join(failures...); err != nil {
		result.Failed = err.Error()
	}
	return result
}

func protected(ctx context.Context, g Group, env *Env) (rows []Row, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return g.Run(ctx, env)
}
