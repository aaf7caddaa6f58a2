package shell

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// Command is a node of the command tree.
type Command struct {
	Name string
	Args string // usage of what follows the name, e.g. "HOST [COUNT]"
	Help string // one line
	Doc  string // more, for the reference; may be empty
	Sub  []*Command
	JSON bool // takes --json
	// Live commands take --watch: they show again every second.
	Live bool

	run      func(ctx context.Context, s *Shell, a args) error
	complete func(ctx context.Context, s *Shell, words []string) []settings.Candidate
}

// args are a command's words after its name.
type args struct {
	words []string
	json  bool
	watch bool
	cmd   *Command
	path  string // the command's full name
}

// usageError is a command used wrongly.
func (a args) usageError() error {
	return say("Usage: %s", usage(a.path, a.cmd))
}

func usage(path string, c *Command) string {
	s := path
	if c.Args != "" {
		s += " " + c.Args
	}
	if c.JSON {
		s += " [--json]"
	}
	if c.Live {
		s += " [--watch]"
	}
	return s
}

// find walks words down the tree. Unambiguous beginnings of names will do.
func find(root *Command, words []string) (args, error) {
	at, path := root, []string{}
	for len(words) > 0 && len(at.Sub) > 0 {
		next, err := match(at, path, words[0])
		if err != nil {
			if at.run != nil && len(path) > 0 {
				break // its own words
			}
			return args{}, err
		}
		at, words = next, words[1:]
		path = append(path, at.Name)
	}
	a := args{cmd: at, path: strings.Join(path, " ")}
	for _, w := range words {
		if w == "--json" && at.JSON {
			a.json = true
			continue
		}
		if w == "--watch" && at.Live {
			a.watch = true
			continue
		}
		a.words = append(a.words, w)
	}
	if at.run == nil {
		return a, fmt.Errorf("%s needs one of: %s", a.path, names(at.Sub))
	}
	if len(at.Sub) == 0 && at.Args == "" && len(a.words) > 0 {
		if a.words[0] == "--json" {
			return a, fmt.Errorf("%s has no --json", a.path)
		}
		if a.words[0] == "--watch" {
			return a, fmt.Errorf("%s has no --watch", a.path)
		}
		return a, fmt.Errorf("%s takes nothing more, but got %q", a.path, strings.Join(a.words, " "))
	}
	return a, nil
}

func match(at *Command, path []string, word string) (*Command, error) {
	var hits []*Command
	for _, c := range at.Sub {
		if c.Name == word {
			return c, nil
		}
		if strings.HasPrefix(c.Name, word) {
			hits = append(hits, c)
		}
	}
	switch {
	case len(hits) == 1:
		return hits[0], nil
	case len(hits) > 1:
		return nil, fmt.Errorf("%q may be: %s", word, names(hits))
	}
	in := strings.Join(append(path, ""), " ")
	if near := settings.Nearest(word, strings.Split(names(at.Sub), ", ")); near != "" {
		return nil, say("There is no %q. Did you mean: %s%s", in+word, in, near)
	}
	if len(path) > 0 {
		return nil, say("There is no %q. %s is followed by: %s", in+word, strings.Join(path, " "), names(at.Sub))
	}
	return nil, say("There is no command %q. Type help for the list", word)
}

func names(cs []*Command) string {
	ns := make([]string, len(cs))
	for i, c := range cs {
		ns[i] = c.Name
	}
	return strings.Join(ns, ", ")
}

// errOpenQuote is a line whose quote has no end.
var errOpenQuote = errors.New("a quote has no end")

// split cuts a line into commands at ";" and those into words at blanks.
// Quotes keep blanks and semicolons in a word, \ keeps the next character
// except in '...'. A "#" that begins a word begins a comment.
func split(line string) ([][]string, error) {
	var cmds [][]string
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	rs := []rune(line)
scan:
	for i := 0; i < len(rs); i++ {
		switch r := rs[i]; {
		case r == '\\' && quote != '\'' && i+1 < len(rs):
			i++
			word.WriteRune(rs[i])
			inWord = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			endWord()
		case r == ';':
			endWord()
			if len(words) > 0 {
				cmds = append(cmds, words)
			}
			words = nil
		case r == '#' && !inWord:
			break scan
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	endWord()
	if len(words) > 0 {
		cmds = append(cmds, words)
	}
	if quote != 0 {
		return cmds, errOpenQuote
	}
	return cmds, nil
}

// splitPartial cuts what stands left of the cursor: the complete words of its
// last command and the beginning of the word under way.
func splitPartial(left string) (words []string, partial string, inQuote bool) {
	cmds, err := split(left + "\x00") // the mark keeps an empty last word
	if len(cmds) == 0 {
		return nil, "", true // in a comment
	}
	words = cmds[len(cmds)-1]
	last := words[len(words)-1]
	if !strings.HasSuffix(last, "\x00") {
		return nil, "", true
	}
	return words[:len(words)-1], strings.TrimSuffix(last, "\x00"), err != nil
}
