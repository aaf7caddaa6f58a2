package settings

import (
	"errors"
	"fmt"
	"strings"
)

// Quote writes a word so that Split reads it back as one.
func Quote(w string) string {
	plain := w != ""
	for _, r := range w {
		if r <= ' ' || r == '"' || r == '\\' || r == '\'' || r == '#' || r == ';' {
			plain = false
		}
	}
	if plain {
		return w
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"`
}

// Split cuts a command line into words. Words are parted by blanks; "..."
// and '...' hold blanks; within "..." a backslash takes the next character as
// it is.
func Split(line string) ([]string, error) {
	var words []string
	var w strings.Builder
	in, quote, escaped := false, rune(0), false
	for _, r := range line {
		switch {
		case escaped:
			w.WriteRune(r)
			escaped = false
		case quote == '"' && r == '\\':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(r)
		case r == '"' || r == '\'':
			in, quote = true, r
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if in {
				words = append(words, w.String())
				w.Reset()
				in = false
			}
		default:
			in = true
			w.WriteRune(r)
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if in {
		words = append(words, w.String())
	}
	return words, nil
}

func unknownWord(word string, path []string, n *Node) error {
	where := ""
	if len(path) > 0 {
		where = " in " + strings.Join(path, " ")
	}
	known := n.words()
	s := fmt.Sprintf("unknown setting %q%s", clip(word), where)
	if near := Nearest(word, known); near != "" {
		s += "; did you mean " + near + "?"
	} else {
		s += "."
	}
	return errors.New(s + " One of: " + strings.Join(known, ", "))
}

func missingWord(path, known []string) error {
	s := "what? One of: "
	if len(path) > 0 {
		s = strings.Join(path, " ") + ": what of it? One of: "
	}
	return errors.New(s + strings.Join(known, ", "))
}

func notThere(path, word string, have []string) error {
	s := fmt.Sprintf("%s has no %q", path, clip(word))
	switch near := Nearest(word, have); {
	case len(have) == 0:
		s += "; it is empty"
	case near != "":
		s += "; did you mean " + near + "?"
	default:
		s += ". It has: " + clip(strings.Join(have, ", "))
	}
	return errors.New(s)
}

// Nearest is the known word that was probably meant by word, "" when none is
// near: it starts like it, or at most two letters differ.
func Nearest(word string, known []string) string {
	if word == "" || len(word) > 64 {
		return ""
	}
	best, dist := "", 3
	for _, k := range known {
		d := distance(word, k)
		if strings.HasPrefix(k, word) {
			d = min(d, 1)
		}
		if d < dist && d < len(k) {
			best, dist = k, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with the
// next (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
