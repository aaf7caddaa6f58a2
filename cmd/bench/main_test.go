package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/qemu/bench"
)

// TestMain is main for the children that a test starts.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-measure") {
		registry = made
		main()
		return
	}
	os.Exit(m.Run())
}

func made() []bench.Group {
	row := func(id string, value float64) bench.Row {
		return bench.Row{ID: id, What: "w", Ground: bench.AMD64, Value: value, Unit: "links", Bar: bench.Limit{Max: 1}}
	}
	return []bench.Group{
		{Name: "errs", Ground: bench.AMD64, Rows: []string{"err"}, Run: func(context.Context, *bench.Env) ([]bench.Row, error) {
			return nil, errors.New("there is no peer")
		}},
		{Name: "dies", Ground: bench.AMD64, Rows: []string{"die"}, Run: func(context.Context, *bench.Env) ([]bench.Row, error) {
			os.Exit(3)
			return nil, nil
		}},
		{Name: "links", Ground: bench.AMD64, Rows: []string{"links", "missed"}, Run: func(context.Context, *bench.Env) ([]bench.Row, error) {
			links, err := net.Interfaces()
			return []bench.Row{row("links", float64(len(links))), row("missed", 2)}, err
		}},
	}
}

// TestGroupsAreApart: a group that fails or dies is a failure of its own, the
// others go on, and each is alone in its network namespace.
func TestGroupsAreApart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: no network namespaces")
	}
	registry = made
	defer func() { registry = groups }()
	env := &bench.Env{Root: "../..", Out: t.TempDir(), Log: io.Discard}
	report, err := all(t.Context(), env, options{out: env.Out})
	if err != nil {
		t.Fatal(err)
	}
	got := report.Results
	if len(got) != 3 || got[0].Failed != "there is no peer" || !strings.Contains(got[1].Failed, "exit status 3") || got[2].Failed != "" {
		t.Fatalf("%+v", got)
	}
	if len(got[2].Rows) != 2 || got[2].Rows[0].Value != 1 {
		t.Errorf("links of an empty namespace: %+v, want lo alone", got[2].Rows)
	}
	if err := write(report, env, false); err == nil || !strings.Contains(err.Error(), "2 of 3 groups") {
		t.Errorf("two groups failed, and the end is: %v", err)
	}
	again, err := bench.ReadReport(filepath.Join(env.Out, "bench.json"))
	if err != nil || again.Failed() != 2 || again.Missed() != 1 {
		t.Errorf("read again: %+v, %v", again, err)
	}
}

func TestStrict(t *testing.T) {
	report := bench.Report{Results: []bench.Result{{Ground: bench.AMD64, Rows: []bench.Row{{Value: 2, Bar: bench.Limit{Max: 1}}}}}}
	env := &bench.Env{Out: t.TempDir()}
	if err := write(report, env, false); err != nil {
		t.Errorf("a row that misses its bar: %v", err)
	}
	if err := write(report, env, true); err == nil {
		t.Error("strict, a row misses its bar, and all is well")
	}
}

// TestRegistry: names are one's own, and a row's ID is one word of a REGEXP.
func TestRegistry(t *testing.T) {
	form, seen := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`), map[string]bool{}
	for _, g := range groups() {
		if g.Run == nil || len(g.Rows) == 0 || (g.Ground != bench.AMD64 && g.Ground != bench.QEMUMIPS) {
			t.Errorf("group %q is not whole", g.Name)
		}
		for _, id := range append([]string{"group " + g.Name}, g.Rows...) {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
			if !strings.HasPrefix(id, "group ") && !form.MatchString(id) {
				t.Errorf("%q: small letters, digits and hyphens", id)
			}
		}
	}
}
