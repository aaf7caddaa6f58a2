package ruleset

import (
	"strconv"
	"strings"
	"time"
)

// Text is the table in nft syntax, laid out as `nft list table inet culvert`
// does, one element a line; then the one of family ip, if there is one.
func (t *Table) Text() string {
	if t.IP != nil {
		return t.text("inet") + "\n" + t.IP.text("ip")
	}
	return t.text("inet")
}

func (t *Table) text(family string) string {
	var b strings.Builder
	b.WriteString("table " + family + " " + Name + " {\n")
	gap := false
	block := func(lines ...string) {
		if gap {
			b.WriteString("\n")
		}
		gap = true
		for i, l := range lines {
			if i > 0 && i < len(lines)-1 {
				b.WriteString("\t")
			}
			b.WriteString("\t" + l + "\n")
		}
	}
	for _, h := range t.Helpers {
		block("ct helper "+h.Name+" {", `type "`+h.Type+`" protocol `+ProtocolName(h.Protocol), "l3proto ip", "}")
	}
	for _, o := range t.Foreign {
		block("# " + o.Text())
	}
	for _, s := range t.Sets {
		block(s.lines()...)
	}
	for _, f := range t.Flowtables {
		l := []string{"flowtable " + f.Name + " {", "hook ingress priority filter"}
		if len(f.Devices) > 0 {
			l = append(l, "devices = { "+strings.Join(f.Devices, ", ")+" }")
		}
		if f.Counter {
			l = append(l, "counter")
		}
		block(append(l, "}")...)
	}
	for _, c := range t.Chains {
		l := []string{"chain " + c.Name + " {"}
		if c.Base() {
			l = append(l, c.head())
		}
		for _, r := range c.Rules {
			l = append(l, r.Text())
		}
		block(append(l, "}")...)
	}
	b.WriteString("}\n")
	return b.String()
}

// Text names the object.
func (o Object) Text() string {
	return "object " + strconv.Quote(o.Name) + " of type " + strconv.Itoa(int(o.Type))
}

var hookNames = [...]string{"prerouting", "input", "forward", "output", "postrouting"}

func (c Chain) head() string {
	policy := "accept"
	if c.Drop {
		policy = "drop"
	}
	hook := strconv.Itoa(c.Hook)
	if c.Hook >= 0 && c.Hook < len(hookNames) {
		hook = hookNames[c.Hook]
	}
	return "type " + c.Type + " hook " + hook + " priority " + priorityText(c.Priority) + "; policy " + policy + ";"
}

func priorityText(p int) string {
	for _, n := range [...]struct {
		p    int
		name string
	}{{0, "filter"}, {-100, "dstnat"}, {100, "srcnat"}, {-300, "raw"}, {-150, "mangle"}} {
		switch d := p - n.p; {
		case d == 0:
			return n.name
		case d > 0 && d <= 10:
			return n.name + " + " + strconv.Itoa(d)
		case d < 0 && d >= -10:
			return n.name + " - " + strconv.Itoa(-d)
		}
	}
	return strconv.Itoa(p)
}

// lines prints the definition and, except for learned sets, the elements.
func (s Set) lines() []string {
	kind, typ := "set ", typesText(s.Key)
	if s.IsMap() {
		kind = "map "
		if s.Verdicts {
			typ += " : verdict"
		} else {
			typ += " : " + typesText(s.Data)
		}
	}
	l := []string{kind + s.Name + " {", "type " + typ}
	if s.Size > 0 {
		l = append(l, "size "+strconv.Itoa(s.Size))
	}
	switch {
	case s.Learned && s.Timeout > 0:
		l = append(l, "flags dynamic,timeout")
	case s.Learned:
		l = append(l, "flags dynamic")
	case s.Interval:
		l = append(l, "flags interval")
	}
	if s.Timeout > 0 {
		l = append(l, "timeout "+durationText(s.Timeout))
	}
	for i, e := range s.Elements {
		text := s.ElementText(e)
		if i == 0 {
			text = "elements = { " + text
		} else {
			text = "\t     " + text
		}
		if i == len(s.Elements)-1 {
			text += " }"
		} else {
			text += ","
		}
		l = append(l, text)
	}
	return append(l, "}")
}

// ElementText is one element in nft syntax.
func (s Set) ElementText(e Element) string {
	var t string
	if s.Interval && len(s.Key) == 1 {
		t = rangeText(s.Key[0], e.Key, e.Last())
	} else {
		t = KeyText(s.Key, e.Key)
	}
	if c := Comment(e.Why); c != "" {
		t += ` comment "` + c + `"`
	}
	switch {
	case s.Verdicts:
		t += " : " + e.Verdict.Text()
	case len(s.Data) > 0:
		t += " : " + KeyText(s.Data, e.Data)
	}
	return t
}

// durationText is d as nft prints it: 1d2h3m4s.
func durationText(d time.Duration) string {
	var b strings.Builder
	for _, u := range [...]struct {
		d time.Duration
		s string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.d; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.s)
			d -= n * u.d
		}
	}
	return b.String()
}
