package shell

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestDocs runs the set commands that the documents show as lines of their own
// on default settings, and wants every other command there to exist.
func TestDocs(t *testing.T) {
	for file, least := range map[string]int{"../../README.md": 3, "../../docs/clients.md": 4} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, known := settings.Default(), names(Root().Sub)
		n, code := 0, false
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "```") {
				code = !code
				continue
			}
			if _, typed, ok := strings.Cut(line, "> "); ok && strings.HasPrefix(line, "culvert") {
				line = typed
			}
			first, _, _ := strings.Cut(line, " ")
			if !code || !slices.Contains(strings.Split(known, ", "), first) {
				continue
			}
			n++
			if err := documented(s, line); err != nil {
				t.Errorf("%s shows %q: %v", file, line, err)
			}
		}
		if n < least {
			t.Errorf("%s shows %d commands, want %d or more", file, n, least)
		}
		if ps := s.Validate(); len(ps) > 0 {
			t.Errorf("%s sets what does not fit: %v", file, ps)
		}
	}
}

func documented(s *settings.Settings, line string) error {
	cmds, err := split(line)
	if err != nil {
		return err
	}
	for _, words := range cmds {
		a, err := find(Root(), words)
		if err == nil && a.path == "set" {
			err = settings.Set(s, a.words)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
