package settings

import "strings"

// Problem is one thing wrong with a settings tree.
type Problem struct {
	Path    string `json:"path"`    // as typed after `set`, e.g. "firewall forward web port"
	Value   string `json:"value"`   // what was given
	Text    string `json:"text"`    // what is wrong, e.g. "not a port"
	Allowed string `json:"allowed"` // what would be right, e.g. "1 to 65535"
}

// Error is "PATH: TEXT (got VALUE; allowed: ALLOWED)".
func (p Problem) Error() string {
	s := p.Path + ": " + p.Text
	switch {
	case p.Value != "" && p.Allowed != "":
		s += " (got " + p.Value + "; allowed: " + p.Allowed + ")"
	case p.Value != "":
		s += " (got " + p.Value + ")"
	case p.Allowed != "":
		s += " (allowed: " + p.Allowed + ")"
	}
	return s
}

// Problems is everything wrong with a tree, in the order of its fields.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}
