package settings

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// Kind tells what a node of the schema is.
type Kind int

// Kinds of nodes.
const (
	Area  Kind = iota // a fixed set of children
	Map               // named entries, all alike
	Entry             // one of those: a fixed set of leaves, the last of which may be a List
	List              // values of one type, in order
	Leaf              // one value
)

// Node is one place in the schema. Nodes are shared: never change one.
type Node struct {
	Name     string // the word in a path; "<name>" or the like for an Entry
	Kind     Kind
	Type     string   // what is typed for a value: "on|off", "number", "address" ...
	Help     string   // one line
	Allowed  string   // values that are right, for people
	Enum     []string // when only these values are
	Default  string   // as typed after set; "" when none
	Secret   bool     // never shown, set by Command
	Command  string   // the shell command that sets a secret
	Children []*Node  // of an Area or Entry, in order
	Entry    *Node    // of a Map
	// Self is the switch of an Area or Entry that is itself on or off:
	// `set passthrough pptp off`.
	Self *Node
	// Empty is the word for a List without elements: "none", or "any" where
	// it means no limit.
	Empty string
	// Rare tells that hardly anybody sets it: who is led through the settings
	// is not asked.
	Rare bool

	field    int // index in the parent struct
	json     string
	typ      reflect.Type
	format   string
	min, max int64  // of numbers, and of durations in ns
	zero     bool   // 0 is allowed too
	optional bool   // the zero value means "not set"
	count    int    // most elements or entries
	without  string // a field that this Area has not, though its type has
}

var schema struct {
	once sync.Once
	root *Node
}

// root is the schema, built at first use: most processes never need it.
func root() *Node {
	schema.once.Do(func() {
		schema.root = &Node{Kind: Area, typ: reflect.TypeFor[Settings]()}
		schema.root.fill(reflect.ValueOf(Default()).Elem())
	})
	return schema.root
}

// fill adds the children of an Area or Entry; def holds their defaults.
func (n *Node) fill(def reflect.Value) {
	for i := range n.typ.NumField() {
		f := n.typ.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "version" || name == n.without && name != "" {
			continue // version is not a setting; JSON has it, see json.go
		}
		c := &Node{Name: name, json: name, field: i, typ: f.Type, Help: f.Tag.Get("help"), optional: opts != ""}
		self := c.tags(f.Tag.Get("schema"))
		c.build(def.Field(i))
		if self {
			c.Name = ""
			n.Self = c
			continue
		}
		n.Children = append(n.Children, c)
	}
}

// tags reads `schema:"..."`; it reports whether the field is its parent's switch.
func (n *Node) tags(tag string) (self bool) {
	for t := range strings.SplitSeq(tag, ",") {
		key, val, _ := strings.Cut(t, "=")
		switch key {
		case "self":
			self = true
		case "enum":
			n.Enum = strings.Split(val, "|")
		case "format":
			n.format = val
		case "command":
			n.Command = val
		case "min":
			n.min = limit(val)
		case "max":
			n.max = limit(val)
		case "zero":
			n.zero = true
		case "rare":
			n.Rare = true
		case "empty":
			n.Empty = val
		case "count":
			n.count = int(limit(val))
		case "without":
			n.without = val
		}
	}
	return self
}

// limit is a number or a duration in ns.
func limit(s string) int64 {
	if v, err := strconv.ParseInt(s, 10, 64); err == nil {
		return v
	}
	d, _ := parseDuration(s)
	return int64(d)
}

func (n *Node) build(def reflect.Value) {
	switch {
	case isLeaf(n.typ):
		n.Kind = Leaf
		n.describe()
		n.Default = n.text(def)
	case n.typ.Kind() == reflect.Slice:
		n.Kind = List
		if n.Empty == "" {
			n.Empty = "none"
		}
		n.describe()
		n.Default = strings.Join(n.texts(def), " ")
	case n.typ.Kind() == reflect.Map:
		n.Kind = Map
		typ, _ := formatText(n.format)
		n.Entry = &Node{Name: "<" + typ + ">", Kind: Entry, typ: n.typ.Elem(), format: n.format, Help: n.Help}
		n.Entry.fill(n.Entry.fresh())
	default:
		n.Kind = Area
		n.fill(def)
	}
}

// fresh is a new entry with its defaults, addressable.
func (n *Node) fresh() reflect.Value {
	p := reflect.New(n.typ)
	if d, ok := p.Interface().(interface{ setDefaults() }); ok {
		d.setDefaults()
	}
	return p.Elem()
}

// child finds a child by the word in a path.
func (n *Node) child(name string) *Node {
	for _, c := range n.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// words are those that may follow n in a path.
func (n *Node) words() []string {
	var w []string
	if n.Self != nil {
		w = append(w, "on", "off")
	}
	for _, c := range n.Children {
		w = append(w, c.Name)
	}
	return w
}

// hasSecret tells whether a secret lies in or below n.
func (n *Node) hasSecret() bool {
	for _, c := range n.Children {
		if c.hasSecret() {
			return true
		}
	}
	return n.Secret
}

func isLeaf(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix]():
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice:
		return false
	}
	return true
}

// Lookup walks down path as far as it names nodes of the schema. rest is what
// follows: values, or nothing. An unknown word in an Area or Entry is an error.
func Lookup(path []string) (n *Node, rest []string, err error) {
	n = root()
	for i := 0; i < len(path); i++ {
		switch n.Kind {
		case Leaf, List:
			return n, path[i:], nil
		case Map:
			n = n.Entry
			continue
		}
		c := n.child(path[i])
		if c == nil {
			if _, err := parseBool(path[i]); n.Self != nil && err == nil {
				return n.Self, path[i:], nil
			}
			return nil, path[i:], unknownWord(path[i], path[:i], n)
		}
		n = c
	}
	return n, nil, nil
}
