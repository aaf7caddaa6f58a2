package settings

import (
	"encoding"
	"net/netip"
	"reflect"
	"strconv"
)

// appendTree appends what lies in and below v as JSON: areas and entries in
// schema order, entries of maps by name, what is not set left out, empty lists
// in place of nil ones.
func appendTree(b []byte, n *Node, v reflect.Value) []byte {
	switch n.Kind {
	case Area, Entry:
		return appendFields(b, n, v)
	case Map:
		return appendEntries(b, n, v)
	case List:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendLeaf(b, v.Index(i))
		}
		return append(b, ']')
	}
	return appendLeaf(b, v)
}

func appendFields(b []byte, n *Node, v reflect.Value) []byte {
	b = append(b, '{')
	if n.Name == "" && n.Kind == Area && n.typ == reflect.TypeFor[Settings]() {
		b = append(b, `"version":`...)
		b = strconv.AppendInt(b, v.FieldByName("Version").Int(), 10)
		b = append(b, ',')
	}
	start := len(b)
	field := func(c *Node) {
		f := v.Field(c.field)
		if c.optional && unset(f) {
			return
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, c.json...)
		b = append(b, '"', ':')
		b = appendTree(b, c, f)
	}
	if n.Self != nil {
		field(n.Self)
	}
	for _, c := range n.Children {
		field(c)
	}
	return append(b, '}')
}

// unset tells whether an optional value is left out.
func unset(v reflect.Value) bool {
	if k := v.Kind(); k == reflect.Slice || k == reflect.Map {
		return v.Len() == 0
	}
	return v.IsZero()
}

func appendEntries(b []byte, n *Node, v reflect.Value) []byte {
	b = append(b, '{')
	if m, ok := v.Interface().(map[string]Forward); ok {
		for i, name := range sortedKeys(m) {
			if i > 0 {
				b = append(b, ',')
			}
			f := m[name]
			b = append(appendQuoted(b, name), ':')
			b = appendForward(b, &f)
		}
		return append(b, '}')
	}
	keys := v.MapKeys()
	sortValues(keys)
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, k.String()), ':')
		b = appendTree(b, n.Entry, v.MapIndex(k))
	}
	return append(b, '}')
}

func appendLeaf(b []byte, v reflect.Value) []byte {
	switch x := v.Interface().(type) {
	case netip.Addr:
		return appendQuoted(b, addrText(x))
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil { // no type in the tree can fail to marshal
			panic(err)
		}
		return appendQuoted(b, string(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	case reflect.Int:
		return strconv.AppendInt(b, v.Int(), 10)
	}
	return appendQuoted(b, v.String())
}

// equalTree tells whether a and b mean the same; an empty list or map equals a
// missing one.
func equalTree(n *Node, a, b reflect.Value) bool {
	switch n.Kind {
	case Area, Entry:
		if n.Self != nil && !equalTree(n.Self, a.Field(n.Self.field), b.Field(n.Self.field)) {
			return false
		}
		for _, c := range n.Children {
			if !equalTree(c, a.Field(c.field), b.Field(c.field)) {
				return false
			}
		}
		return true
	case Map:
		return equalEntries(n, a, b)
	case List:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !a.Index(i).Equal(b.Index(i)) {
				return false
			}
		}
		return true
	}
	return a.Equal(b)
}

func equalEntries(n *Node, a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	if a.UnsafePointer() == b.UnsafePointer() {
		return true
	}
	if m, ok := a.Interface().(map[string]Forward); ok {
		return SameForwards(m, b.Interface().(map[string]Forward))
	}
	for it := a.MapRange(); it.Next(); {
		o := b.MapIndex(it.Key())
		if !o.IsValid() || !equalTree(n.Entry, it.Value(), o) {
			return false
		}
	}
	return true
}

// SameForwards tells whether a and b are the same forwards.
func SameForwards(a, b map[string]Forward) bool {
	if len(a) != len(b) {
		return false
	}
	if reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer() {
		return true
	}
	for name, f := range a {
		if o, ok := b[name]; !ok || f != o {
			return false
		}
	}
	return true
}

// SameButForwards tells whether f and o differ in their port forwards at most.
func (f Firewall) SameButForwards(o Firewall) bool {
	return f.Offload == o.Offload && f.WANPing == o.WANPing && f.VPNServers == o.VPNServers
}

// Same tells whether a and b mean the same in the areas that are named.
func Same(a, b *Settings, areas ...string) bool {
	if a == b {
		return true
	}
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, name := range areas {
		if n := root().child(name); n == nil || !equalTree(n, va.Field(n.field), vb.Field(n.field)) {
			return false
		}
	}
	return true
}
