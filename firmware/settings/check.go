package settings

import (
	"fmt"
	"reflect"
	"strconv"
)

// check collects the problems of one tree.
type check struct {
	s        *Settings
	problems Problems
}

func (c *check) addf(path string, value any, text, allowed string) {
	c.problems = append(c.problems, Problem{Path: path, Value: clip(fmt.Sprint(value)), Text: text, Allowed: allowed})
}

// clip keeps a value short enough for a message.
func clip(s string) string {
	if len(s) > 80 {
		return strconv.Quote(s[:77] + "...")
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// node checks every value in and below v by itself.
func (c *check) node(n *Node, v reflect.Value, path string) {
	switch n.Kind {
	case Area, Entry:
		if n.Self != nil {
			c.node(n.Self, v.Field(n.Self.field), path)
		}
		for _, ch := range n.Children {
			c.node(ch, v.Field(ch.field), path+" "+ch.Name)
		}
	case Map:
		c.count(n, v, path)
		if m, ok := v.Interface().(map[string]Forward); ok && rightForwards(m) {
			return
		}
		m := v.MapKeys()
		sortValues(m)
		for _, k := range m {
			if err := checkFormat(n.format, k.String()); err != nil {
				_, allowed := formatText(n.format)
				c.addf(path, k, err.Error(), allowed)
			}
			c.node(n.Entry, v.MapIndex(k), path+" "+showWord(k.String()))
		}
	case List:
		c.count(n, v, path)
		for i := range v.Len() {
			c.leaf(n, v.Index(i), path)
		}
	case Leaf:
		c.leaf(n, v, path)
	}
}

func (c *check) leaf(n *Node, v reflect.Value, path string) {
	if err := n.check(v); err != nil {
		c.addf(path, n.text(v), err.Error(), n.Allowed)
	}
}

func (c *check) count(n *Node, v reflect.Value, path string) {
	if v.Len() > n.count {
		c.addf(path, v.Len(), "too many", "at most "+strconv.Itoa(n.count))
	}
}

// showWord is a word of a path that may be anything.
func showWord(s string) string {
	if c := clip(s); c != s {
		return c
	}
	return Quote(s)
}
