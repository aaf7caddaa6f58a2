// Package golden runs tests that read testdata/*.txtar: files that say what goes
// in, and files that hold what has to come out.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// Update is the flag -update: what came out becomes what has to.
var Update = flag.Bool("update", false, "rewrite the goldens in testdata")

// Run makes a subtest of each archive. produce gets its files by name, and gives
// what came out by name. A file that it does not give is not compared; one file
// at least has to be.
func Run(t *testing.T, produce func(t *testing.T, in map[string]string) map[string]string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) { one(t, f, produce) })
	}
}

func one(t *testing.T, file string, produce func(t *testing.T, in map[string]string) map[string]string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]string{}
	for _, f := range a.Files {
		in[f.Name] = string(f.Data)
	}
	out := produce(t, in)
	compared, changed := false, false
	for i, f := range a.Files {
		got, ok := out[f.Name]
		if !ok {
			continue
		}
		compared = true
		if diff := cmp.Diff(string(f.Data), got); diff != "" {
			changed = true
			a.Files[i].Data = []byte(got)
			if !*Update {
				t.Errorf("%s (-golden +now):\n%s", f.Name, diff)
			}
		}
	}
	if !compared {
		t.Errorf("%s compares nothing; add an empty file of what comes out and run with -update", file)
	}
	if changed && *Update {
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
