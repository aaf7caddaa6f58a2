package shell

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// helpTimeout bounds what Tab and ? may wait for the network manager.
const helpTimeout = 3 * time.Second

// key is the line editor's hook: Tab completes, ? helps without being entered.
func (s *Shell) key(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' && key != '?' {
		return "", 0, false
	}
	words, partial, inQuote := splitPartial(line[:pos])
	if inQuote {
		return "", 0, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), helpTimeout)
	defer cancel()
	cs, about := s.candidates(ctx, words, partial)
	if key == '?' {
		s.explain(s.prompt(), line, cs, about)
		return line, pos, true
	}
	return s.tab(s.prompt(), line, pos, partial, cs)
}

// tab completes the word partial, which ends at pos, as far as the candidates
// agree; where they do not it shows them.
func (s *Shell) tab(prompt, line string, pos int, partial string, cs []settings.Candidate) (string, int, bool) {
	left, right := line[:pos], line[pos:]
	words := wordsOf(cs)
	switch {
	case len(words) == 0:
		if len(cs) > 0 { // a value that only the person knows
			s.explain(prompt, line, cs, nil)
		}
		return line, pos, true
	case len(words) == 1:
		add := words[0][len(partial):]
		if !strings.HasPrefix(right, " ") {
			add += " "
		}
		left += add
	default:
		add := common(words)[len(partial):]
		if add == "" {
			s.explain(prompt, line, cs, nil)
			return line, pos, true
		}
		left += add
	}
	return left + right, len(left), true
}

// candidates are the words that may stand at the position after words,
// beginning with partial; about is the command whose arguments they are.
func (s *Shell) candidates(ctx context.Context, words []string, partial string) ([]settings.Candidate, *args) {
	at, path := s.root, []string{}
	for len(words) > 0 && len(at.Sub) > 0 {
		next, err := match(at, path, words[0])
		if err != nil {
			return nil, nil
		}
		at, words, path = next, words[1:], append(path, next.Name)
	}
	a := &args{cmd: at, path: strings.Join(path, " ")}
	var all []settings.Candidate
	switch {
	case len(at.Sub) > 0:
		all, a = subCandidates(at), nil
	case at.complete != nil:
		all = at.complete(ctx, s, append(words[:len(words):len(words)], partial))
	}
	if at.JSON && (strings.HasPrefix(partial, "-") || at.complete == nil) {
		all = append(all, settings.Candidate{Word: "--json", Help: "for programs"})
	}
	if at.Live && (strings.HasPrefix(partial, "-") || at.complete == nil) {
		all = append(all, settings.Candidate{Word: "--watch", Help: "again every second, until a key"})
	}
	return fitting(all, partial), a
}

// fitting are the candidates that begin with partial, and the placeholders.
func fitting(all []settings.Candidate, partial string) []settings.Candidate {
	var cs []settings.Candidate
	for _, c := range all {
		if placeholder(c.Word) || strings.HasPrefix(c.Word, partial) {
			cs = append(cs, c)
		}
	}
	return cs
}

func subCandidates(at *Command) []settings.Candidate {
	cs := make([]settings.Candidate, len(at.Sub))
	for i, c := range at.Sub {
		cs[i] = settings.Candidate{Word: c.Name, Help: c.Help}
	}
	return cs
}

// placeholder is a candidate that stands for a value and is not typed itself.
func placeholder(word string) bool {
	return word == "" || strings.HasPrefix(word, "<")
}

func wordsOf(cs []settings.Candidate) []string {
	var ws []string
	for _, c := range cs {
		if !placeholder(c.Word) {
			ws = append(ws, c.Word)
		}
	}
	return ws
}

// common is the longest beginning that all words share.
func common(words []string) string {
	c := words[0]
	for _, w := range words[1:] {
		for !strings.HasPrefix(w, c) {
			c = c[:len(c)-1]
		}
	}
	return c
}

// explain shows what may come next above the line being edited.
func (s *Shell) explain(prompt, line string, cs []settings.Candidate, about *args) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n", prompt, line)
	if about != nil {
		fmt.Fprintf(&b, "  %s: %s\n", usage(about.path, about.cmd), about.cmd.Help)
	}
	b.WriteString(s.choices(cs))
	if len(cs) == 0 && about == nil {
		b.WriteString("  Nothing fits here. Type help for the commands.\n")
	}
	fmt.Fprint(s.c, b.String())
}

// choices are candidates with their help, one a line.
func (s *Shell) choices(cs []settings.Candidate) string {
	t := newTable("", "")
	for _, c := range cs {
		t.add("  "+c.Word, c.Help)
	}
	var b strings.Builder
	t.write(&b, s.width())
	return strings.TrimPrefix(b.String(), "\n")
}

// fullPath writes shortened names of settings out, where only one can be
// meant. Names and values that a person chose stay as they are: the defaults
// have none, so nothing but the schema's own words is completed.
func fullPath(words []string) []string {
	full := slices.Clone(words)
	for i, w := range words {
		var hits []string
		for _, c := range settings.Complete(settings.Default(), full[:i+1]) {
			if placeholder(c.Word) || c.Word == w {
				hits = nil
				break
			}
			if w != "" && strings.HasPrefix(c.Word, w) {
				hits = append(hits, c.Word)
			}
		}
		if len(hits) == 1 {
			full[i] = hits[0]
		}
	}
	return full
}

// withPartial is fullPath for all words but the last, which is under way.
func withPartial(words []string) []string {
	n := len(words) - 1
	return append(fullPath(words[:n]), words[n])
}

func completeSet(ctx context.Context, s *Shell, words []string) []settings.Candidate {
	c, err := s.candidate(ctx)
	if err != nil {
		return nil
	}
	return settings.Complete(c.next, withPartial(words))
}

// completePath offers the paths of what is set.
func completePath(ctx context.Context, s *Shell, words []string) []settings.Candidate {
	c, err := s.candidate(ctx)
	if err != nil {
		return nil
	}
	return settings.CompletePath(c.next, withPartial(words))
}
