// Package settings holds the router's typed settings tree: what a person
// configures, nothing that was learnt or measured. It is pure: no I/O.
//
// One schema, read from the structs and their tags, drives parsing, checks,
// the `set` and `delete` commands, completion, help, JSON and the reference
// manual. Each area has a file with its types, defaults and checks.
package settings

import (
	"maps"
	"reflect"
)

// Version is the schema version that this code reads and writes.
const Version = 1

// Settings is the whole tree. The zero value is not valid; start from Default.
// Field tags drive the schema: `json` names the path element, `help` is the
// one-line help, `schema` holds the limits (see schema.go).
type Settings struct {
	// Version is the schema version, see the migrate package.
	Version     int         `json:"version"`
	System      System      `json:"system" help:"host name, time servers, who may log in"`
	LAN         LAN         `json:"lan" help:"the home network: address, DHCP, named hosts"`
	WAN         WAN         `json:"wan" help:"the Internet side"`
	DNS         DNS         `json:"dns" help:"name service for the LAN"`
	Firewall    Firewall    `json:"firewall" help:"port forwards and firewall options"`
	Passthrough Passthrough `json:"passthrough" help:"which VPN protocols may cross the router"`
	SSH         SSH         `json:"ssh" help:"the SSH shell"`
}

// Default is what a fresh router starts with: it routes, and has no owner yet.
func Default() *Settings {
	return &Settings{
		Version:     Version,
		System:      defaultSystem(),
		LAN:         defaultLAN(),
		WAN:         defaultWAN(),
		DNS:         defaultDNS(),
		Firewall:    defaultFirewall(),
		Passthrough: defaultPassthrough(),
		SSH:         defaultSSH(),
	}
}

// Validate tells everything that is wrong with the tree, in the order of its
// fields: each value by itself, then what must fit together.
func (s *Settings) Validate() Problems {
	c := &check{s: s}
	if s.Version != Version {
		c.addf("version", s.Version, "not the version of these settings", "1")
	}
	areas := []func(*check){checkSystem, checkLAN, checkWAN, checkDNS, checkFirewall, checkPassthrough, checkSSH}
	v := reflect.ValueOf(s).Elem()
	for i, n := range root().Children {
		c.node(n, v.Field(n.field), n.Name)
		areas[i](c)
	}
	return c.problems
}

// Clone is a deep copy.
func (s *Settings) Clone() *Settings {
	c := new(Settings)
	deepCopy(reflect.ValueOf(c).Elem(), reflect.ValueOf(s).Elem())
	return c
}

func deepCopy(dst, src reflect.Value) {
	dst.Set(src)
	switch src.Kind() {
	case reflect.Struct:
		if isLeaf(src.Type()) {
			return
		}
		for i := range src.NumField() {
			deepCopy(dst.Field(i), src.Field(i))
		}
	case reflect.Slice:
		if !src.IsNil() {
			dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
			reflect.Copy(dst, src)
		}
	case reflect.Map:
		if src.IsNil() {
			return
		}
		if m, ok := src.Interface().(map[string]Forward); ok {
			dst.Set(reflect.ValueOf(maps.Clone(m)))
			return
		}
		dst.Set(reflect.MakeMapWithSize(src.Type(), src.Len()))
		for it := src.MapRange(); it.Next(); {
			e := reflect.New(src.Type().Elem()).Elem()
			deepCopy(e, it.Value())
			dst.SetMapIndex(it.Key(), e)
		}
	}
}

// Equal tells whether both trees mean the same, secrets included; an empty
// list or map equals a missing one.
func (s *Settings) Equal(o *Settings) bool {
	return s.Version == o.Version && equalTree(root(), reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem())
}

// Compact is the tree as JSON without white space and with secrets: the form
// the store keeps.
func (s *Settings) Compact() []byte {
	return appendTree(make([]byte, 0, 2048+96*len(s.Firewall.Forwards)), root(), reflect.ValueOf(s).Elem())
}

// secretSet stands for a secret that has a value.
const secretSet = "(set)"

// Redacted is a copy in which each secret that has a value is "(set)".
func (s *Settings) Redacted() *Settings {
	c := s.Clone()
	c.secrets(func(v reflect.Value) {
		if v.String() != "" {
			v.SetString(secretSet)
		}
	})
	return c
}

// ValidateRedacted is Validate for what Redacted made: a secret that is "(set)"
// is taken for right.
func (s *Settings) ValidateRedacted() Problems {
	c := s.Clone()
	c.secrets(func(v reflect.Value) {
		if v.String() == secretSet {
			v.SetString("") // right for every secret: none
		}
	})
	return c.Validate()
}

// MergeSecrets gives each secret that is "(set)" the value it has in from.
func (s *Settings) MergeSecrets(from *Settings) {
	var old []string
	from.secrets(func(v reflect.Value) { old = append(old, v.String()) })
	i := 0
	s.secrets(func(v reflect.Value) {
		if v.String() == secretSet {
			v.SetString(old[i])
		}
		i++
	})
}

// secrets calls fn with each secret of the tree, in schema order. Secrets live
// in areas only: a map of entries with secrets would need merging by name.
func (s *Settings) secrets(fn func(reflect.Value)) {
	var walk func(*Node, reflect.Value)
	walk = func(n *Node, v reflect.Value) {
		if n.Secret {
			fn(v)
		}
		if n.Kind == Area {
			for _, c := range n.Children {
				walk(c, v.Field(c.field))
			}
		}
	}
	walk(root(), reflect.ValueOf(s).Elem())
}
