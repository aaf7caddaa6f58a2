package settings

import (
	"errors"
	"reflect"
	"strings"
)

// Text is the value at path as it is typed after set: of a list all elements,
// or the word for none; of an area its switch. A path that names no value is an
// error; entries of maps are not looked into.
func Text(s *Settings, path []string) (string, error) {
	n, v := root(), reflect.ValueOf(s).Elem()
	for i, w := range path {
		c := n.child(w)
		if c == nil {
			return "", unknownWord(w, path[:i], n)
		}
		n, v = c, v.Field(c.field)
	}
	if n.Self != nil {
		n, v = n.Self, v.Field(n.Self.field)
	}
	switch {
	case n.Kind == Leaf:
		return n.text(v), nil
	case n.Kind == List && v.Len() == 0:
		return n.Empty, nil
	case n.Kind == List:
		words := n.texts(v)
		for i, w := range words {
			words[i] = Quote(w)
		}
		return strings.Join(words, " "), nil
	}
	return "", errors.New(strings.Join(path, " ") + " has no value of its own")
}
