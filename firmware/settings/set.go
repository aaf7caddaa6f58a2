package settings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Set changes what words name: a path and its value, several leaves of one
// area or entry in one go ("firewall forward web port 8080 to 192.168.1.10"),
// a list as a whole ("dns upstreams 1.1.1.1 9.9.9.9", "none" or, where it
// means no limit, "any" for an empty one). A new entry starts with its defaults. On an error nothing is changed.
// Values are checked by themselves; what must fit together is for Validate.
func Set(s *Settings, words []string) error {
	c := s.Clone()
	if err := set(root(), reflect.ValueOf(c).Elem(), nil, words); err != nil {
		return err
	}
	*s = *c
	return nil
}

func set(n *Node, v reflect.Value, path, words []string) error {
	switch n.Kind {
	case Map:
		return setEntry(n, v, path, words)
	case List:
		return setList(n, v, path, words)
	}
	if len(words) == 0 {
		return missingWord(path, n.words())
	}
	for first := true; len(words) > 0; first = false {
		w := words[0]
		c := n.child(w)
		if c == nil {
			on, err := parseBool(w)
			if n.Self == nil || err != nil {
				return unknownWord(w, path, n)
			}
			v.Field(n.Self.field).SetBool(on)
			words = words[1:]
			continue
		}
		sub := append(slices.Clip(path), w)
		if c.Kind == Leaf {
			if err := setLeaf(c, v.Field(c.field), sub, words[1:min(2, len(words))]); err != nil {
				return err
			}
			words = words[2:]
			continue
		}
		if !first && c.Kind != List {
			return fmt.Errorf("%s takes a command of its own: set %s VALUE", strings.Join(sub, " "), strings.Join(sub, " "))
		}
		return set(c, v.Field(c.field), sub, words[1:])
	}
	return nil
}

func setLeaf(n *Node, v reflect.Value, path, words []string) error {
	p := strings.Join(path, " ")
	if n.Secret {
		return fmt.Errorf("%s can't be set here; use the command: %s", p, n.Command)
	}
	if len(words) == 0 {
		return Problem{Path: p, Text: "a value is missing", Allowed: n.Allowed}
	}
	x, err := n.value(words[0])
	if err != nil {
		return Problem{Path: p, Value: clip(words[0]), Text: err.Error(), Allowed: n.Allowed}
	}
	v.Set(x)
	return nil
}

func setEntry(n *Node, v reflect.Value, path, words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("%s: a name is missing: set %s NAME VALUE", strings.Join(path, " "), strings.Join(path, " "))
	}
	name := words[0]
	e, key := n.Entry.fresh(), reflect.ValueOf(name)
	if old := v.MapIndex(key); old.IsValid() {
		e.Set(old)
	} else if err := newName(n, v, path, name); err != nil {
		return err
	}
	if err := set(n.Entry, e, append(slices.Clip(path), name), words[1:]); err != nil {
		return err
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(n.typ))
	}
	v.SetMapIndex(key, e)
	return nil
}

// newName checks the name of an entry that is about to be made.
func newName(n *Node, v reflect.Value, path []string, name string) error {
	if err := checkFormat(n.format, name); err != nil {
		_, allowed := formatText(n.format)
		return Problem{Path: strings.Join(path, " "), Value: clip(name), Text: err.Error(), Allowed: allowed}
	}
	if v.Len() >= n.count {
		return Problem{Path: strings.Join(path, " "), Value: name, Text: "too many", Allowed: fmt.Sprint("at most ", n.count)}
	}
	return nil
}

func setList(n *Node, v reflect.Value, path, words []string) error {
	p := strings.Join(path, " ")
	switch {
	case len(words) == 0:
		return Problem{Path: p, Text: "a value is missing", Allowed: n.Allowed + "; or " + n.Empty}
	case len(words) == 1 && words[0] == n.Empty:
		v.Set(reflect.MakeSlice(n.typ, 0, 0))
		return nil
	case len(words) == 1 && words[0] == "none":
		return Problem{Path: p, Value: "none", Text: "without an element there is no limit", Allowed: n.Allowed + "; or " + n.Empty}
	case len(words) > n.count:
		return Problem{Path: p, Value: fmt.Sprint(len(words)), Text: "too many", Allowed: fmt.Sprint("at most ", n.count)}
	}
	l := reflect.MakeSlice(n.typ, 0, len(words))
	for _, w := range words {
		if w == n.Empty {
			return Problem{Path: p, Value: w, Text: "it stands alone", Allowed: n.Allowed + "; or " + n.Empty + " and nothing else"}
		}
		x, err := n.value(w)
		if err != nil {
			return Problem{Path: p, Value: clip(w), Text: err.Error(), Allowed: n.Allowed}
		}
		l = reflect.Append(l, x)
	}
	v.Set(l)
	return nil
}

// Delete takes back what words name: a value or a whole area returns to its
// default, an entry goes, "dns upstreams 1.1.1.1" removes that element. On an
// error nothing is changed.
func Delete(s *Settings, words []string) error {
	c := s.Clone()
	if err := del(root(), reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()).Elem(), nil, words); err != nil {
		return err
	}
	if s.System.Admin.Password != "" && c.System.Admin.Password == "" && len(c.System.Admin.Keys) == 0 {
		return errors.New("without a password and keys nobody could log in; add a key first, with the command: key")
	}
	if err := groupsInUse(s, c); err != nil {
		return err
	}
	*s = *c
	return nil
}

func del(n *Node, v, def reflect.Value, path, words []string) error {
	p := strings.Join(path, " ")
	if len(words) == 0 {
		if len(path) == 0 || (n.Kind == Area && n.hasSecret()) {
			return missingWord(path, n.words())
		}
		if n.Kind == Leaf && n.check(def) != nil {
			return fmt.Errorf("%s has no default: set another value, or delete %s", p, strings.Join(path[:len(path)-1], " "))
		}
		v.Set(def)
		return nil
	}
	w := words[0]
	sub := append(slices.Clip(path), w)
	switch n.Kind {
	case Area, Entry:
		c := n.child(w)
		if c == nil {
			return unknownWord(w, path, n)
		}
		return del(c, v.Field(c.field), def.Field(c.field), sub, words[1:])
	case Map:
		key := reflect.ValueOf(w)
		old := v.MapIndex(key)
		if !old.IsValid() {
			return notThere(p, w, mapNames(v))
		}
		if len(words) == 1 {
			v.SetMapIndex(key, reflect.Value{})
			return nil
		}
		e := reflect.New(n.Entry.typ).Elem()
		e.Set(old)
		if err := del(n.Entry, e, n.Entry.fresh(), sub, words[1:]); err != nil {
			return err
		}
		v.SetMapIndex(key, e)
		return nil
	case List:
		return delElements(n, v, p, words)
	}
	return fmt.Errorf("delete %s takes no value; unexpected %q", p, w)
}

func delElements(n *Node, v reflect.Value, p string, words []string) error {
	have := n.texts(v)
	for _, w := range words {
		i := slices.Index(have, w)
		if i < 0 {
			return notThere(p, w, have)
		}
		v.Set(reflect.AppendSlice(v.Slice(0, i), v.Slice(i+1, v.Len())))
		have = slices.Delete(have, i, i+1)
	}
	if len(have) == 0 && n.Empty != "none" {
		return fmt.Errorf("%s: without an element there is no limit; if that is meant: set %s %s", p, p, n.Empty)
	}
	return nil
}

func mapNames(v reflect.Value) []string {
	var names []string
	for _, k := range v.MapKeys() {
		names = append(names, k.String())
	}
	slices.Sort(names)
	return names
}

func sortValues(keys []reflect.Value) {
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
}
