package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/culvert-fw/culvert/qemu/bench"
)

// document writes a run into docs/performance.md, and the run itself beside it:
// TestDocs holds the two together.
func document(docs, run string) error {
	report, err := bench.ReadReport(run)
	if err != nil {
		return fmt.Errorf("the last run: %w", err)
	}
	if err := whole(report); err != nil {
		return fmt.Errorf("%s: %w", run, err)
	}
	return tables(docs, report)
}

// tables writes the tables of a report into the page, and the picture and the
// report itself beside it.
func tables(docs string, report bench.Report) error {
	page := filepath.Join(docs, "performance.md")
	before, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	after, err := report.InsertTables(string(before))
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	json, err := report.JSON()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"performance.md": []byte(after), "performance.json": json, "performance.svg": []byte(report.SVG())} {
		if err := os.WriteFile(filepath.Join(docs, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// whole tells which row a run lacks: rows of several runs are no table. A group
// that failed is told as that.
func whole(report bench.Report) error {
	for _, g := range registry() {
		i := slices.IndexFunc(report.Results, func(r bench.Result) bool { return r.Group == g.Name })
		if i < 0 {
			return fmt.Errorf("not a whole run: group %s was not measured", g.Name)
		}
		result := report.Results[i]
		for _, id := range g.Rows {
			if result.Failed == "" && !slices.ContainsFunc(result.Rows, func(r bench.Row) bool { return r.ID == id }) {
				return fmt.Errorf("not a whole run: row %s was not measured", id)
			}
		}
	}
	return nil
}
