// Package ruleset is the firewall as a value: tables, chains, typed rules,
// sets and maps. It is pure: nothing here talks to a kernel. Text prints nft
// syntax, Diff tells how two tables differ.
package ruleset

import (
	"slices"
	"sort"
	"strings"
	"time"
)

// Name is that of the tables that the router owns.
const Name = "culvert"

// Table is the content of `table inet culvert` and, in IP, of `table ip
// culvert`. They change in one transaction.
type Table struct {
	// IP is the table of family ip, for what inet has no expression for (Dup);
	// nil: there is none.
	IP *Table

	Helpers    []Helper
	Sets       []Set // sets and maps
	Flowtables []Flowtable
	Chains     []Chain
	// Foreign lists objects of kinds that this package does not know,
	// found in the table by an observer, as "counter \"x\"". A desired table
	// has none.
	Foreign []Object
}

// Object names an nft stateful object by its kernel type number.
type Object struct {
	Type uint32
	Name string
}

// Hooks of base chains, as the kernel numbers them for inet.
const (
	Prerouting  = 0
	Input       = 1
	Forward     = 2
	Output      = 3
	Postrouting = 4
)

// Chain is a chain; Type is empty for one that is only jumped to.
type Chain struct {
	Name     string
	Type     string // "filter" or "nat"
	Hook     int
	Priority int
	Drop     bool // the policy
	Rules    []Rule
}

// Base tells whether the chain hangs on a hook.
func (c Chain) Base() bool { return c.Type != "" }

// Rule is a list of matches and statements, evaluated from left to right.
type Rule struct {
	Exprs []Expr
	// Why is the setting that the rule comes from, kept as its comment.
	Why string

	observed bool
	digest   uint64
	text     string
}

// R makes a rule.
func R(why string, e ...Expr) Rule { return Rule{Exprs: e, Why: why} }

// Observed is a rule read back from a kernel. digest is what Digest gave for
// the rule when it was written, 0 for one that somebody else wrote or changed;
// text describes it to a person.
func Observed(digest uint64, text string) Rule {
	return Rule{observed: true, digest: digest, text: text}
}

// Digest identifies the rule's text, comment included. It is never 0 for a
// rule made with R.
func (r Rule) Digest() uint64 {
	if r.observed {
		return r.digest
	}
	return fnv(r.Text())
}

// fnv is FNV-1a, 64 bits, never 0.
func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	if h == 0 {
		return 1
	}
	return h
}

// Set is a named set, or a map when Data or Verdicts is given.
type Set struct {
	Name     string
	Key      []Type
	Data     []Type // of a map
	Verdicts bool   // a verdict map
	Interval bool   // keys are ranges (one field only)
	// Learned sets are filled on the packet path or by a learner: their
	// content is never compared nor changed by Apply.
	Learned bool
	Timeout time.Duration // default timeout of elements of a learned set, 0 = they stay
	Size    int           // most elements, 0 = no limit
	// Elements are sorted by key.
	Elements []Element
}

// IsMap tells whether the set maps keys to data or verdicts.
func (s Set) IsMap() bool { return len(s.Data) > 0 || s.Verdicts }

// Sort orders the elements by key, as Diff wants them.
func (s *Set) Sort() {
	sort.Slice(s.Elements, func(i, j int) bool { return s.Elements[i].Key < s.Elements[j].Key })
}

// sameShape tells whether b can hold a's elements without being made anew.
func (s Set) sameShape(b Set) bool {
	return s.Name == b.Name && slices.Equal(s.Key, b.Key) && slices.Equal(s.Data, b.Data) &&
		s.Verdicts == b.Verdicts && s.Interval == b.Interval && s.Learned == b.Learned &&
		s.Timeout == b.Timeout && s.Size == b.Size
}

// SameShape tells whether the definitions are equal, elements aside.
func (s Set) SameShape(b Set) bool { return s.sameShape(b) }

// Element is one entry. Key, End and Data are made by Key().
type Element struct {
	Key     Key
	End     Key // last key of the range, in interval sets; empty = Key alone
	Data    Key
	Verdict Verdict // in verdict maps
	Why     string  // the setting it comes from
}

// Last is the last key of an element of an interval set.
func (e Element) Last() Key {
	if e.End == "" {
		return e.Key
	}
	return e.End
}

// same compares what the kernel keeps of an element.
func (e Element) same(o Element) bool {
	return e.Key == o.Key && e.Last() == o.Last() && e.Data == o.Data && e.Verdict == o.Verdict &&
		(e.Why == o.Why || Comment(e.Why) == Comment(o.Why))
}

// Flowtable carries established flows past the chains.
type Flowtable struct {
	Name    string
	Devices []string // sorted; all must exist when it is applied
	Counter bool     // count bytes and packets of offloaded flows
}

// Helper is a conntrack helper object.
type Helper struct {
	Name     string // of the object
	Type     string // the kernel's name, "pptp"
	Protocol uint8
}

// WithFlowtableDevices returns a copy whose flowtables have just these devices.
// A device that does not exist fails the whole batch, so those that
// come and go are applied last.
func (t *Table) WithFlowtableDevices(devices ...string) *Table {
	c := *t
	c.Flowtables = append([]Flowtable(nil), t.Flowtables...)
	d := append([]string(nil), devices...)
	sort.Strings(d)
	for i := range c.Flowtables {
		c.Flowtables[i].Devices = d
	}
	return &c
}

// Chain returns the chain of that name, nil when there is none.
func (t *Table) Chain(name string) *Chain {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i]
		}
	}
	return nil
}

// Set returns the set or map of that name, nil when there is none.
func (t *Table) Set(name string) *Set {
	for i := range t.Sets {
		if t.Sets[i].Name == name {
			return &t.Sets[i]
		}
	}
	return nil
}

// maxComment is what survives of a comment: nft allows 128 bytes with the
// NUL, and rule user data (256 bytes) also holds digests.
const maxComment = 120

// Comment is why as nft can keep it: printable, without quotes, not too long.
func Comment(why string) string {
	plain := len(why) <= maxComment
	for i := 0; plain && i < len(why); i++ {
		plain = why[i] >= ' ' && why[i] <= '~' && why[i] != '"' && why[i] != '\\'
	}
	if plain {
		return why
	}
	why = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		if r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, why)
	if len(why) > maxComment {
		why = why[:maxComment]
	}
	return why
}
