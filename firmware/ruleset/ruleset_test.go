package ruleset

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func addr(s string) Key { return Addr(netip.MustParseAddr(s)) }

func table() *Table {
	t := &Table{
		Sets: []Set{
			{Name: "s", Key: []Type{IPv4Addr}, Elements: []Element{{Key: addr("192.0.2.1"), Why: "a"}, {Key: addr("192.0.2.2")}}},
			{Name: "learned", Key: []Type{IPv4Addr}, Learned: true},
		},
		Flowtables: []Flowtable{{Name: "ft", Devices: []string{"a", "b"}}},
		Chains: []Chain{{Name: "input", Type: "filter", Hook: Input, Drop: true, Rules: []Rule{
			R("one", Established, Verdict{Kind: Accept}), R("two", Iif{"lo"}, Verdict{Kind: Accept})}}},
	}
	return t
}

func TestDiff(t *testing.T) {
	if d := Diff(table(), table()); len(d) > 0 {
		t.Errorf("a table differs from itself: %q", d)
	}
	for _, c := range []struct {
		edit func(*Table)
		want string
	}{
		{func(t *Table) { t.Chains[0].Rules = t.Chains[0].Rules[:1] }, `+ chain input rule 2: iifname "lo" accept comment "two"`},
		{func(t *Table) { slices.Reverse(t.Chains[0].Rules) }, "~ chain input: rules are in another order"},
		{func(t *Table) { t.Chains[0].Rules = append(t.Chains[0].Rules, Observed(0, "foreign")) }, "- chain input rule 3: foreign"},
		{func(t *Table) { t.Chains[0].Rules = append(t.Chains[0].Rules, t.Chains[0].Rules[0]) }, `- chain input rule 1: ct state established accept comment "one"`},
		{func(t *Table) { t.Chains[0].Drop = false }, "~ chain input: definition differs"},
		{func(t *Table) { t.Chains = append(t.Chains, Chain{Name: "x"}) }, "- chain x"},
		{func(t *Table) { t.Sets = t.Sets[1:] }, "+ set s"},
		{func(t *Table) { t.Sets[0].Interval = true }, "~ set s: definition differs"},
		{func(t *Table) { t.Sets[0].Elements = t.Sets[0].Elements[1:] }, `+ set s: 192.0.2.1 comment "a"`},
		{func(t *Table) { t.Sets[0].Elements[0].Why = "b" }, "- set s: 192.0.2.1 comment \"b\"\n+ set s: 192.0.2.1 comment \"a\""},
		{func(t *Table) { t.Sets[1].Elements = t.Sets[0].Elements }, ""},
		{func(t *Table) { slices.Reverse(t.Flowtables[0].Devices) }, ""},
		{func(t *Table) { t.Flowtables[0].Devices = []string{"a"} }, "~ flowtable ft: definition differs"},
		{func(t *Table) { t.Foreign = []Object{{1, "hits"}} }, `- object "hits" of type 1`},
		{func(t *Table) { t.Helpers = []Helper{{"pptp", "pptp", TCP}} }, "- ct helper pptp"},
	} {
		have := table()
		have.Flowtables[0].Devices = slices.Clone(have.Flowtables[0].Devices)
		c.edit(have)
		if got := strings.Join(Diff(table(), have), "\n"); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
		if Equal(table(), have) != (c.want == "") {
			t.Errorf("Equal disagrees about %q", c.want)
		}
	}
	if got := Diff(table(), nil); len(got) != 1 || got[0] != "+ table inet culvert" {
		t.Errorf("no table: %q", got)
	}
}

func TestRangeText(t *testing.T) {
	s := Set{Key: []Type{IPv4Addr}, Interval: true}
	for _, c := range [][3]string{
		{"10.0.0.0", "10.255.255.255", "10.0.0.0/8"}, {"0.0.0.0", "255.255.255.255", "0.0.0.0/0"}, {"192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.1", "192.0.2.4", "192.0.2.1-192.0.2.4"}, {"240.0.0.0", "255.255.255.255", "240.0.0.0/4"},
	} {
		if got := s.ElementText(Element{Key: addr(c[0]), End: addr(c[1])}); got != c[2] {
			t.Errorf("%s to %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

// TestComment: whatever a name is, nft takes the text.
func TestComment(t *testing.T) {
	if got := Comment("a \"b\"\n\\ ü" + strings.Repeat("x", 200)); len(got) != maxComment || strings.ContainsAny(got, "\"\n\\ü") {
		t.Errorf("%q", got)
	}
}
