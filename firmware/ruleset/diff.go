package ruleset

import (
	"slices"
	"strconv"
)

// Diff tells what has to change for observed to become desired, one line a
// change ("+ ..." is missing, "- ..." is too much, "~ ..." differs), and is
// empty when they are equal. The content of learned sets does not count. A nil
// table is one that does not exist.
func Diff(desired, observed *Table) []string {
	lines := diff("inet", desired, observed)
	if desired != nil && observed != nil {
		lines = append(lines, diff("ip", desired.IP, observed.IP)...)
	}
	return lines
}

func diff(family string, desired, observed *Table) []string {
	switch {
	case desired == observed:
		return nil
	case observed == nil:
		return []string{"+ table " + family + " " + Name}
	case desired == nil:
		return []string{"- table " + family + " " + Name}
	}
	var d differ
	named(&d, "ct helper ", desired.Helpers, observed.Helpers, func(h Helper) string { return h.Name },
		func(a, b Helper) bool { return a == b }, nil)
	named(&d, "", nil, observed.Foreign, Object.Text, func(a, b Object) bool { return a == b }, nil)
	named(&d, "set ", desired.Sets, observed.Sets, func(s Set) string { return s.Name }, Set.sameShape, d.elements)
	named(&d, "flowtable ", desired.Flowtables, observed.Flowtables, func(f Flowtable) string { return f.Name },
		func(a, b Flowtable) bool {
			return a.Counter == b.Counter && slices.Equal(sorted(a.Devices), sorted(b.Devices))
		}, nil)
	named(&d, "chain ", desired.Chains, observed.Chains, func(c Chain) string { return c.Name }, sameHead, d.rules)
	return d.lines
}

// Equal tells whether nothing differs.
func Equal(a, b *Table) bool { return len(Diff(a, b)) == 0 }

type differ struct{ lines []string }

func (d *differ) add(s string) { d.lines = append(d.lines, s) }

// named compares two lists of named things: definition by same, content by
// inside (may be nil).
func named[T any](d *differ, kind string, want, have []T, name func(T) string, same func(a, b T) bool, inside func(a, b T)) {
	index := make(map[string]int, len(have))
	for i, h := range have {
		index[name(h)] = i
	}
	for _, w := range want {
		i, ok := index[name(w)]
		delete(index, name(w))
		switch {
		case !ok:
			d.add("+ " + kind + name(w))
		case !same(w, have[i]):
			d.add("~ " + kind + name(w) + ": definition differs")
		case inside != nil:
			inside(w, have[i])
		}
	}
	for _, h := range have {
		if _, ok := index[name(h)]; ok {
			d.add("- " + kind + name(h))
		}
	}
}

func sameHead(a, b Chain) bool {
	return a.Type == b.Type && (!a.Base() || a.Hook == b.Hook && a.Priority == b.Priority && a.Drop == b.Drop)
}

// maxElements is how many elements of a set are told one by one.
const maxElements = 10

// elements compares the content of two sets of one shape.
func (d *differ) elements(want, have Set) {
	add, del := want.ElementDiff(have)
	d.some("- set "+want.Name+": ", want, del)
	d.some("+ set "+want.Name+": ", want, add)
}

func (d *differ) some(what string, s Set, elements []Element) {
	for i, e := range elements {
		if i == maxElements {
			d.add(what + strconv.Itoa(len(elements)-i) + " more")
			return
		}
		d.add(what + s.ElementText(e))
	}
}

// ElementDiff tells which elements have to be added to have and deleted from
// it to make it s. An element whose data or comment differs is in both. It is empty
// for learned sets. Elements of both must be sorted; don't write to what it gives.
func (s Set) ElementDiff(have Set) (add, del []Element) {
	w, h := s.Elements, have.Elements
	if s.Learned || sameSlice(w, h) {
		return nil, nil
	}
	if len(w) == 0 || len(h) == 0 {
		return w, h
	}
	for len(w) > 0 || len(h) > 0 {
		switch {
		case len(h) == 0 || len(w) > 0 && w[0].Key < h[0].Key:
			add, w = append(add, w[0]), w[1:]
		case len(w) == 0 || h[0].Key < w[0].Key:
			del, h = append(del, h[0]), h[1:]
		default:
			if !w[0].same(h[0]) {
				add, del = append(add, w[0]), append(del, h[0])
			}
			w, h = w[1:], h[1:]
		}
	}
	return add, del
}

// rules compares two chains rule by rule.
func (d *differ) rules(want, have Chain) {
	if SameRules(want, have) {
		return
	}
	count := make(map[uint64]int, len(have.Rules))
	for _, r := range have.Rules {
		count[r.Digest()]++
	}
	n := len(d.lines)
	for i, r := range want.Rules {
		if g := r.Digest(); count[g] > 0 && g != 0 {
			count[g]--
		} else {
			d.add("+ chain " + want.Name + " rule " + strconv.Itoa(i+1) + ": " + r.Text())
		}
	}
	for i, r := range have.Rules {
		if g := r.Digest(); count[g] > 0 || g == 0 {
			count[g]--
			d.add("- chain " + want.Name + " rule " + strconv.Itoa(i+1) + ": " + r.Text())
		}
	}
	if len(d.lines) == n {
		d.add("~ chain " + want.Name + ": rules are in another order")
	}
}

// SameRules tells whether the chains have the same rules in the same order.
func SameRules(a, b Chain) bool {
	return sameSlice(a.Rules, b.Rules) || slices.EqualFunc(a.Rules, b.Rules, func(x, y Rule) bool {
		return x.Digest() == y.Digest() && x.Digest() != 0
	})
}

// sameSlice tells whether a and b are one and the same list.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func sorted(s []string) []string {
	c := slices.Clone(s)
	slices.Sort(c)
	return c
}
