// Command bench measures Culvert beside its peers: a table on the terminal, and
// bench.json and bench.svg in out/bench. It runs as root in the folder of go.mod.
// With -doc it measures nothing and writes what the last run measured into
// docs/performance.md, and beside it as JSON and as the picture.
// The exit status is 1 when a group failed, and with -strict also when a row
// misses its bar.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/culvert-fw/culvert/qemu/bench"
)

type options struct {
	rows, out, measure string
	list, strict, doc  bool
}

func main() {
	var o options
	flag.StringVar(&o.rows, "rows", "", "only the rows whose ID matches this `REGEXP`")
	flag.StringVar(&o.out, "out", "out/bench", "the `DIR` of bench.json, bench.svg and the logs")
	flag.BoolVar(&o.list, "list", false, "list the rows, measure nothing")
	flag.BoolVar(&o.strict, "strict", false, "exit with 1 also when a row misses its bar")
	flag.BoolVar(&o.doc, "doc", false, "write the last run, which has to be a whole one, into docs/performance.md; measure nothing")
	flag.StringVar(&o.measure, "measure", "", "measure this `GROUP` here and write its rows as JSON to file 3 (bench starts itself so)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	out, err := filepath.Abs(o.out)
	if err != nil {
		return err
	}
	env := &bench.Env{Root: root, Out: out, Log: os.Stderr}
	if env.Select, err = regexp.Compile(o.rows); err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	switch {
	case o.list:
		return list(env)
	case o.doc:
		return document(filepath.Join(root, "docs"), filepath.Join(out, "bench.json"))
	case o.measure != "":
		return measure(ctx, env, o.measure)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	report, err := all(ctx, env, o)
	if err != nil {
		return err
	}
	return write(report, env, o.strict)
}

func list(env *bench.Env) error {
	for _, g := range registry() {
		for _, id := range env.Wanted(g) {
			fmt.Printf("%-32s %-9s %s\n", id, g.Ground, g.Name)
		}
	}
	return nil
}

// all runs the groups one after the other: nothing disturbs what is measured.
func all(ctx context.Context, env *bench.Env, o options) (bench.Report, error) {
	report, err := bench.Host(ctx, env.Root)
	if err != nil {
		return report, err
	}
	for _, g := range registry() {
		if len(env.Wanted(g)) == 0 {
			continue
		}
		fmt.Fprintf(env.Log, "%s (%s)\n", g.Name, g.Ground)
		report.Results = append(report.Results, child(ctx, g, o))
		if err := ctx.Err(); err != nil {
			return report, err
		}
	}
	if len(report.Results) == 0 {
		return report, fmt.Errorf("no row matches %q; -list lists them", o.rows)
	}
	return report, nil
}

func write(report bench.Report, env *bench.Env, strict bool) error {
	json, err := report.JSON()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(env.Out, "bench.json"), json, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(env.Out, "bench.svg"), []byte(report.SVG()), 0o644); err != nil {
		return err
	}
	fmt.Print("\n", report.Table())
	fmt.Printf("written: bench.json and bench.svg in %s\n", env.Out)
	if n := report.Failed(); n > 0 {
		return fmt.Errorf("%d of %d groups failed", n, len(report.Results))
	}
	if n := report.Missed(); strict && n > 0 {
		return fmt.Errorf("%d rows miss their bar", n)
	}
	return nil
}
