package settings

import (
	"reflect"
	"slices"
	"strings"
)

// Candidate is a word that may come next. A Word in angle brackets stands for
// something to be typed, "<address>": show it, never insert it.
type Candidate struct {
	Word string
	Help string
}

// Complete tells what may come next after `set` and words; the last of words
// is what was typed of the next one so far, "" when nothing was.
func Complete(s *Settings, words []string) []Candidate {
	return (&completion{values: true, hosts: s.LAN.Hosts, groups: s.LAN.Groups}).run(s, words)
}

// CompletePath is Complete for `delete` and `show settings`: paths, entries
// that exist and elements of lists, but no values.
func CompletePath(s *Settings, words []string) []Candidate {
	return (&completion{}).run(s, words)
}

type completion struct {
	values bool
	hosts  map[string]Host
	groups map[string]Group
	out    []Candidate
}

func (c *completion) run(s *Settings, words []string) []Candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	c.node(root(), reflect.ValueOf(s).Elem(), words)
	typed := words[len(words)-1]
	return slices.DeleteFunc(c.out, func(x Candidate) bool {
		return !strings.HasPrefix(x.Word, typed) && !strings.HasPrefix(x.Word, "<")
	})
}

func (c *completion) add(word, help string) { c.out = append(c.out, Candidate{word, help}) }

func (c *completion) node(n *Node, v reflect.Value, words []string) {
	switch n.Kind {
	case Map:
		c.entry(n, v, words)
	case List:
		c.list(n, v)
	default:
		c.area(n, v, words)
	}
}

func (c *completion) area(n *Node, v reflect.Value, words []string) {
	used := map[*Node]bool{}
	for len(words) > 1 {
		ch := n.child(words[0])
		if ch == nil {
			if _, err := parseBool(words[0]); n.Self == nil || err != nil || !c.values {
				return
			}
			used[n.Self], words = true, words[1:]
			continue
		}
		used[ch] = true
		if ch.Kind != Leaf {
			c.node(ch, v.Field(ch.field), words[1:])
			return
		}
		if !c.values {
			return
		}
		if len(words) == 2 {
			c.value(ch, v.Field(ch.field))
			return
		}
		words = words[2:]
	}
	if n.Self != nil && !used[n.Self] && c.values {
		c.value(n.Self, v.Field(n.Self.field))
	}
	for _, ch := range n.Children {
		if used[ch] || len(used) > 0 && ch.Kind != Leaf || c.values && ch.Secret {
			continue
		}
		c.add(ch.Name, ch.Help)
	}
}

func (c *completion) entry(n *Node, v reflect.Value, words []string) {
	if len(words) == 1 {
		for _, name := range mapNames(v) {
			c.add(name, strings.Join(entryWords(n.Entry, v.MapIndex(reflect.ValueOf(name))), " "))
		}
		if c.values {
			c.add(n.Entry.Name, "a new one: "+n.Help)
		}
		return
	}
	e := v.MapIndex(reflect.ValueOf(words[0]))
	if !e.IsValid() {
		if !c.values {
			return
		}
		e = n.Entry.fresh()
	}
	c.node(n.Entry, e, words[1:])
}

func (c *completion) list(n *Node, v reflect.Value) {
	for _, w := range n.texts(v) {
		c.add(w, "set now")
	}
	if c.values {
		c.devices(n)
		c.add("<"+n.Type+">", n.Help)
		if n.Empty == "none" {
			c.add("none", "no element")
		} else {
			c.add(n.Empty, "no limit")
		}
	}
}

// value offers what a leaf takes, with what it is now.
func (c *completion) value(n *Node, v reflect.Value) {
	now := n.text(v)
	for _, e := range n.Enum {
		help := ""
		if e == now {
			help = "set now"
		}
		c.add(e, help)
	}
	if n.Enum != nil {
		return
	}
	help := n.Allowed
	if now != "" {
		help += "; now " + now
	}
	c.devices(n)
	c.add("<"+n.Type+">", help)
}

// devices offers the names of lan hosts and lan groups where one may be typed.
func (c *completion) devices(n *Node) {
	if n.format != "device" && n.format != "devices" && n.format != "members" {
		return
	}
	fresh := func(name string) bool {
		return !slices.ContainsFunc(c.out, func(x Candidate) bool { return x.Word == name })
	}
	for _, name := range sortedKeys(c.hosts) {
		h := c.hosts[name]
		switch {
		case !fresh(name):
		case h.Address.IsValid():
			c.add(name, h.Address.String())
		case n.format != "device":
			c.add(name, h.MAC)
		}
	}
	if n.format != "devices" {
		return
	}
	for _, name := range sortedKeys(c.groups) {
		if fresh(name) {
			c.add(name, "group: "+strings.Join(c.groups[name].Members, " "))
		}
	}
}
