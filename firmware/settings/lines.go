package settings

import (
	"reflect"
	"slices"
	"strings"
)

// line is one `set ...` command of a tree.
type line struct {
	path  string // what it sets; the name of the entry in a map
	text  string // "set PATH VALUE"
	value string // the real value, secrets included: tells a change, never shown
}

// Lines is the tree as commands that would make it out of the default one, in
// schema order, an entry a line. Secrets show as (set) and can't be typed so.
func Lines(s *Settings) []string {
	var out []string
	for _, l := range tree(s) {
		out = append(out, l.text)
	}
	return out
}

// LinesAt is Lines of the part of the tree that path names, for `show
// settings PATH`. A path that names nothing is an error.
func LinesAt(s *Settings, path []string) ([]string, error) {
	_, rest, err := Lookup(path)
	if err == nil && len(rest) > 0 {
		err = unknownWord(rest[0], path[:len(path)-len(rest)], &Node{})
	}
	if err != nil {
		return nil, err
	}
	if up, _, _ := Lookup(path[:max(len(path)-1, 0)]); up.Kind == Entry {
		path = path[:len(path)-1] // an entry is one line
	}
	prefix := "set "
	for _, w := range path {
		prefix += Quote(w) + " "
	}
	var out []string
	for _, l := range Lines(s) {
		if strings.HasPrefix(l+" ", prefix) {
			out = append(out, l)
		}
	}
	return out, nil
}

// Compare tells what makes b out of a: "- set ..." was, "+ set ..." is, in
// schema order. A secret that changed is one line.
func Compare(a, b *Settings) []string {
	var out []string
	la, lb := tree(a), tree(b)
	old := make(map[string]line, len(la))
	for _, l := range la {
		old[l.path] = l
	}
	kept := make(map[string]bool, len(lb))
	for _, l := range lb {
		kept[l.path] = true
	}
	// Removed lines stay in their place: before the next line that b kept.
	i := 0
	removed := func(until string) {
		for ; i < len(la) && la[i].path != until; i++ {
			if !kept[la[i].path] {
				out = append(out, "- "+la[i].text)
			}
		}
	}
	for _, l := range lb {
		o, had := old[l.path]
		if had {
			removed(l.path)
		}
		switch {
		case !had:
			out = append(out, "+ "+l.text)
		case o.value == l.value:
		case o.text == l.text: // a secret
			out = append(out, "+ "+l.text+" to another value")
		default:
			out = append(out, "- "+o.text, "+ "+l.text)
		}
	}
	removed("")
	return out
}

func tree(s *Settings) []line {
	var out []line
	walkLines(root(), reflect.ValueOf(s).Elem(), nil, &out)
	return out
}

func walkLines(n *Node, v reflect.Value, path []string, out *[]line) {
	emit := func(words ...string) {
		p := strings.Join(path, " ")
		for i, w := range words {
			words[i] = Quote(w)
		}
		val := strings.Join(words, " ")
		l := line{path: p, text: strings.TrimSuffix("set "+p+" "+val, " "), value: val}
		if n.Secret {
			l.value, l.text = v.String(), "set "+p+" "+secretSet
		}
		*out = append(*out, l)
	}
	switch n.Kind {
	case Area:
		if n.Self != nil {
			walkLines(n.Self, v.Field(n.Self.field), path, out)
		}
		for _, c := range n.Children {
			walkLines(c, v.Field(c.field), append(slices.Clip(path), c.Name), out)
		}
	case Map:
		keys := v.MapKeys()
		sortValues(keys)
		for _, k := range keys {
			walkLines(n.Entry, v.MapIndex(k), append(slices.Clip(path), Quote(k.String())), out)
		}
	case Entry:
		emit(entryWords(n, v)...)
	case List:
		if w := n.texts(v); len(w) > 0 {
			emit(w...)
		} else if n.Default != "" {
			emit("none")
		}
	case Leaf:
		if t := n.text(v); t != "" && (t != n.Default || !n.optional) {
			emit(t)
		}
	}
}

// entryWords are an entry's switch, its leaves, and a list, which is last.
func entryWords(n *Node, v reflect.Value) []string {
	var w []string
	if n.Self != nil {
		w = append(w, n.Self.text(v.Field(n.Self.field)))
	}
	for _, c := range n.Children {
		if c.Kind == List {
			if t := c.texts(v.Field(c.field)); len(t) > 0 {
				w = append(append(w, c.Name), t...)
			} else {
				w = append(w, c.Name, c.Empty)
			}
			continue
		}
		if f := v.Field(c.field); !f.IsZero() || (!c.optional && c.check(f) == nil) {
			if t := c.text(f); t != "" {
				w = append(w, c.Name, t)
			}
		}
	}
	return w
}
