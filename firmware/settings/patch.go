package settings

import (
	"bytes"
	"reflect"
	"slices"
)

// Patched is a copy of s with what a patch changes: a document like those of
// Parse that has only what differs, as Patch writes it. A list is given as a
// whole, and so is an entry of a map; null removes an entry. Of an entry that is
// given twice the last one counts.
func (s *Settings) Patched(patch []byte) (*Settings, Problems) {
	if len(patch) > MaxJSON {
		return nil, tooLarge(patch)
	}
	c := s.Clone()
	d := &decoder{scanner: scanner{data: bytes.TrimSpace(patch)}, merge: true}
	if problems := d.tree(c); problems != nil {
		return nil, problems
	}
	return c, nil
}

// Patch is what makes s of old, for Patched. Secrets are in it when they differ.
func (s *Settings) Patch(old *Settings) []byte {
	return appendChanged(nil, root(), reflect.ValueOf(old).Elem(), reflect.ValueOf(s).Elem())
}

// appendChanged appends what differs in an area.
func appendChanged(b []byte, n *Node, old, v reflect.Value) []byte {
	b = append(b, '{')
	start := len(b)
	field := func(c *Node) {
		was, is := old.Field(c.field), v.Field(c.field)
		if equalTree(c, was, is) {
			return
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, c.json...)
		b = append(b, '"', ':')
		switch c.Kind {
		case Area:
			b = appendChanged(b, c, was, is)
		case Map:
			b = appendChangedEntries(b, c, was, is)
		default:
			b = appendTree(b, c, is)
		}
	}
	if n.Self != nil {
		field(n.Self)
	}
	for _, c := range n.Children {
		field(c)
	}
	return append(b, '}')
}

func appendChangedEntries(b []byte, n *Node, old, v reflect.Value) []byte {
	b = append(b, '{')
	start := len(b)
	entry := func(name string) {
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, name), ':')
	}
	if m, ok := v.Interface().(map[string]Forward); ok {
		was := old.Interface().(map[string]Forward)
		for _, name := range changedForwards(was, m) {
			f, ok := m[name]
			if entry(name); ok {
				b = appendForward(b, &f)
			} else {
				b = append(b, "null"...)
			}
		}
		return append(b, '}')
	}
	names := append(mapNames(old), mapNames(v)...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		key := reflect.ValueOf(name)
		was, is := old.MapIndex(key), v.MapIndex(key)
		switch {
		case !is.IsValid():
			entry(name)
			b = append(b, "null"...)
		case !was.IsValid() || !equalTree(n.Entry, was, is):
			entry(name)
			b = appendTree(b, n.Entry, is)
		}
	}
	return append(b, '}')
}

// changedForwards are the names of those that differ, in order.
func changedForwards(was, is map[string]Forward) (names []string) {
	same := 0
	for name, f := range is {
		switch o, ok := was[name]; {
		case !ok:
			names = append(names, name)
		case o != f:
			names = append(names, name)
			same++
		default:
			same++
		}
	}
	if same < len(was) {
		for name := range was {
			if _, ok := is[name]; !ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
