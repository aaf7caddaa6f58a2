package bench

import (
	"math"
	"strconv"
	"strings"
)

// Limit is a bar or a goal: one of its fields is set, and the zero Limit is none.
type Limit struct {
	Min  float64 `json:"min,omitempty"`  // of the ratio when the row has a peer, else of the value
	Max  float64 `json:"max,omitempty"`  // of the value, in the row's unit
	Zero bool    `json:"zero,omitempty"` // the value must be 0: nothing lost
}

// Pass tells whether v keeps the limit. No limit is always kept.
func (l Limit) Pass(v float64) bool {
	switch {
	case l.Zero:
		return v == 0
	case l.Max != 0:
		return v <= l.Max
	case l.Min != 0:
		return v >= l.Min
	}
	return true
}

// String is the limit of a plain number: ">= 0.90", "<= 1000", "= 0"; "" for none.
func (l Limit) String() string {
	switch {
	case l.Zero:
		return "= 0"
	case l.Max != 0:
		return "<= " + decimals(l.Max, 0)
	case l.Min != 0:
		return ">= " + decimals(l.Min, 2)
	}
	return ""
}

// text is the limit as the row's number is printed: "<= 30 M", ">= 0.90".
func (l Limit) text(r Row) string {
	switch {
	case l.Zero || l == Limit{} || l.ofRatio(r):
		return l.String()
	case l.Max != 0:
		return "<= " + quantity(l.Max, r.Unit)
	}
	return ">= " + quantity(l.Min, r.Unit)
}

func (l Limit) ofRatio(r Row) bool { return l.Min != 0 && r.PeerWhat != "" }

func (l Limit) kinds() int {
	n := 0
	for _, set := range []bool{l.Min != 0, l.Max != 0, l.Zero} {
		if set {
			n++
		}
	}
	return n
}

// score is v in the limit's own measure: 1 keeps it just so, 2 is twice as good.
// A limit of 0 has no measure between: kept is +Inf, else 0.
func (l Limit) score(v float64) float64 {
	switch {
	case l.Zero && v == 0, l.Max != 0 && v == 0:
		return math.Inf(1)
	case l.Zero:
		return 0
	case l.Max != 0:
		return l.Max / v
	}
	return v / l.Min
}

// decimals is v with as many decimals as it has, and least at least.
func decimals(v float64, least int) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	_, frac, _ := strings.Cut(s, ".")
	if len(frac) < least {
		return strconv.FormatFloat(v, 'f', least, 64)
	}
	return s
}

// quantity is v as people read it, to three figures, with the prefix of its unit
// but without the unit: "3.4 k", "12.1 M", "14".
func quantity(v float64, unit string) string {
	prefixes := []string{"", "k", "M", "G"}
	if !takesPrefix(unit) {
		prefixes = prefixes[:1]
	}
	p := 0
	for v >= 999.5 && p < len(prefixes)-1 {
		v /= 1000
		p++
	}
	if prefixes[p] == "" {
		return figures(v)
	}
	return figures(v) + " " + prefixes[p]
}

// withUnit is quantity and the unit: "12.1 M insn", "37 kB", "14 ms".
func withUnit(v float64, unit string) string {
	q := quantity(v, unit)
	if unit == "B" && q[len(q)-1] > '9' {
		return q + unit
	}
	return q + " " + unit
}

// takesPrefix tells a base unit from one that has its size in its name.
func takesPrefix(unit string) bool {
	base, _, _ := strings.Cut(unit, "/")
	switch base {
	case "ns", "us", "ms", "s", "min", "kB", "MB", "KiB", "MiB", "%":
		return false
	}
	return true
}

// figures is v to three figures, zeros at the end of the decimals left out.
func figures(v float64) string {
	if v == 0 {
		return "0"
	}
	n := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	s := strconv.FormatFloat(v, 'f', min(max(n, 0), 6), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
