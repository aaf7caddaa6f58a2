package bench

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/golden"
)

// TestGolden reads a report and wants its table, its picture and itself again.
func TestGolden(t *testing.T) {
	golden.Run(t, func(t *testing.T, in map[string]string) map[string]string {
		var r Report
		if err := json.Unmarshal([]byte(in["bench.json"]), &r); err != nil {
			t.Fatal(err)
		}
		again, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		table, svg := r.Table(), r.SVG()
		for l := range strings.SplitSeq(table, "\n") {
			if n := len([]rune(l)); n > fullWidth {
				t.Errorf("%d columns: %s", n, l)
			}
		}
		wellFormed(t, svg)
		doc, err := r.InsertTables("# Before\n" + docBegin + "what was there\n" + docEnd + "After.\n")
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"bench.json": string(again), "table": table, "doc.md": doc, "bench.svg": svg}
	})
}

func TestNoMarkers(t *testing.T) {
	for _, doc := range []string{"", docBegin, docEnd, docEnd + docBegin} {
		if _, err := (Report{}).InsertTables(doc); err == nil {
			t.Errorf("%q has no place for the tables, and gets them", doc)
		}
	}
}

func wellFormed(t *testing.T, doc string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(doc)); ; {
		switch _, err := d.Token(); {
		case err == io.EOF:
			return
		case err != nil:
			t.Fatal(err)
		}
	}
}
