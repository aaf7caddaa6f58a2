package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// Parse never panics, and what it takes survives export, and validation never panics.
func FuzzParse(f *testing.F) {
	f.Add(Export(Default(), true))
	f.Add(Export(full(f), true))
	for _, doc := range goldenFiles(f, "import") {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		s, problems := Parse(doc)
		if (s == nil) != (problems != nil) {
			t.Fatalf("tree %v with problems %v", s, problems)
		}
		_ = problems.Error()
		if s == nil {
			return
		}
		_ = s.Validate().Error()
		again, problems := Parse(Export(s, true))
		if problems != nil || !again.Equal(s) {
			t.Fatalf("exported and parsed differs: %v\n%s", problems, text(Compare(s, again)))
		}
		_ = Compare(Default(), s)
	})
}

// Set and Delete never panic, change nothing on an error, and what they make
// is what its lines make.
func FuzzSet(f *testing.F) {
	for _, commands := range goldenFiles(f, "commands") {
		f.Add(commands)
	}
	f.Fuzz(func(t *testing.T, commands string) {
		s := Default()
		for line := range strings.Lines(commands) {
			words, err := Split(line)
			if err != nil || len(words) == 0 {
				continue
			}
			before := s.Clone()
			if words[0] == "delete" {
				err = Delete(s, words[1:])
			} else {
				err = Set(s, words[1:])
			}
			if err != nil && !s.Equal(before) {
				t.Fatalf("%q failed with %v and changed something", line, err)
			}
			_ = Complete(s, words[1:])
			_ = CompletePath(s, words[1:])
			_, _ = LinesAt(s, words[1:])
		}
		_ = s.Validate()
		typed := Default()
		for _, l := range Lines(s) {
			words, err := Split(l)
			if err == nil {
				err = Set(typed, words[1:])
			}
			if err != nil {
				t.Fatalf("%s: %v", l, err)
			}
		}
		if !typed.Equal(s) {
			t.Fatalf("its lines make another tree:\n%s", text(Compare(s, typed)))
		}
	})
}

// goldenFiles are the files of this name in all goldens.
func goldenFiles(t testing.TB, name string) (out []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range txtar.Parse(b).Files {
			if f.Name == name {
				out = append(out, string(f.Data))
			}
		}
	}
	return out
}
