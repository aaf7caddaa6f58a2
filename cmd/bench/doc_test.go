package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/qemu/bench"
)

// TestDocs: the tables and the picture in docs are those of the run beside them,
// and nobody has mended a number by hand. -update writes them in today's form.
func TestDocs(t *testing.T) {
	const docs = "../../docs/"
	report, err := bench.ReadReport(docs + "performance.json")
	if err != nil {
		t.Fatal(err)
	}
	if *golden.Update { // the form has changed, not the run
		if err := tables(docs, report); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(docs + "performance.md")
	if err != nil {
		t.Fatal(err)
	}
	again, err := report.InsertTables(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(page), again); d != "" {
		t.Errorf("performance.md is not what out/bin/bench -doc writes:\n%s", d)
	}
	picture, err := os.ReadFile(docs + "performance.svg")
	if err != nil || string(picture) != report.SVG() {
		t.Errorf("performance.svg is not what out/bin/bench -doc writes (%v)", err)
	}
}

func TestDocument(t *testing.T) {
	registry = func() []bench.Group { return made()[1:] }
	defer func() { registry = groups }()
	dir := t.TempDir()
	run, page := filepath.Join(dir, "bench.json"), filepath.Join(dir, "performance.md")
	row := bench.Row{ID: "links", What: "links there are", Ground: bench.AMD64, Value: 1, Unit: "links"}
	report := bench.Report{Results: []bench.Result{
		{Group: "dies", Ground: bench.AMD64, Failed: "exit status 3"},
		{Group: "links", Ground: bench.AMD64, Rows: []bench.Row{row}},
	}}
	save := func() {
		t.Helper()
		json, err := report.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(run, json, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blank, err := (bench.Report{}).InsertTables("Text.\n" + bench.DocMarkers)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(page, []byte(blank), 0o644); err != nil {
		t.Fatal(err)
	}
	save()
	if err := document(dir, run); err == nil || !strings.Contains(err.Error(), "row missed") {
		t.Errorf("a row was not measured: %v", err)
	}
	row.ID = "missed"
	report.Results[1].Rows = append(report.Results[1].Rows, row)
	save()
	if err := document(dir, run); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(page)
	if err != nil || !strings.HasPrefix(string(got), "Text.\n") || !strings.Contains(string(got), "| links there are |") || !strings.Contains(string(got), "FAILED: exit status 3") {
		t.Errorf("%v: %s", err, got)
	}
	report.Results = report.Results[:1]
	save()
	if err := document(dir, run); err == nil || !strings.Contains(err.Error(), "group links") {
		t.Errorf("a group was not measured: %v", err)
	}
}
