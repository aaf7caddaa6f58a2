package settings

import (
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/golden"
)

// A golden is a txtar: what it shows as its comment, then
//
//	base      commands that lead to the tree to start from (optional)
//	commands  what the admin types
//	errors    what was refused, with the message
//	compare   what the commands changed
//	problems  what Validate says of the result
//	lines     the result, `show settings` (only where the golden has it)
//	complete  what each line of "tab" offers next
//	json      the result of Export, or the problems of Parse for "import"
func TestGoldens(t *testing.T) { golden.Run(t, produce) }

func produce(t *testing.T, in map[string]string) map[string]string {
	s := Default()
	if out := apply(s, in["base"]); out != "" {
		t.Fatalf("base: %s", out)
	}
	base := s.Clone()
	out := map[string]string{"errors": apply(s, in["commands"])}
	out["compare"] = text(Compare(base, s))
	out["problems"] = problemText(s.Validate())
	out["lines"] = text(Lines(s))
	out["json"] = string(Export(s, false))
	out["complete"] = completions(t, s, in["tab"])
	if doc, ok := in["import"]; ok {
		p, problems := Parse([]byte(doc))
		out["problems"] = problemText(problems)
		if p != nil {
			out["problems"] = problemText(p.Validate())
			out["compare"] = text(Compare(base, p))
		}
	}
	return out
}

// apply runs commands and returns what was refused.
func apply(s *Settings, commands string) string {
	var out strings.Builder
	for line := range strings.Lines(commands) {
		line = strings.TrimSpace(line)
		words, err := Split(line)
		if len(words) == 0 && err == nil {
			continue
		}
		before := s.Clone()
		switch {
		case err != nil:
		case words[0] == "set":
			err = Set(s, words[1:])
		case words[0] == "delete":
			err = Delete(s, words[1:])
		}
		if err != nil {
			out.WriteString("> " + line + "\n" + err.Error() + "\n")
			if !before.Equal(s) {
				out.WriteString("BUT IT CHANGED SOMETHING\n")
			}
		}
	}
	return out.String()
}

func completions(t *testing.T, s *Settings, tab string) string {
	var out strings.Builder
	for line := range strings.Lines(tab) {
		line = strings.TrimRight(line, "\n")
		words, err := Split(line)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(line, " ") {
			words = append(words, "")
		}
		cs := CompletePath(s, words[1:])
		if words[0] == "set" {
			cs = Complete(s, words[1:])
		}
		out.WriteString("> " + strings.TrimSpace(line) + "\n")
		for _, c := range cs {
			out.WriteString(strings.TrimRight("  "+c.Word+"\t"+c.Help, "\t") + "\n")
		}
	}
	return out.String()
}

func text(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

func problemText(ps Problems) string {
	if len(ps) == 0 {
		return ""
	}
	return ps.Error() + "\n"
}
