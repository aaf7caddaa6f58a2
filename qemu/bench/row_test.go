package bench

import (
	"context"
	"errors"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	ratio := Row{PeerWhat: "peer", Value: 5, Peer: 4, Ratio: 0.9, Unit: "insn"}
	for _, c := range []struct {
		row       Row
		bar, goal Limit
		want      Verdict
	}{
		{ratio, Limit{}, Limit{}, Reported},
		{ratio, Limit{Min: 0.9}, Limit{}, Passed},
		{ratio, Limit{Min: 0.9}, Limit{Min: 0.91}, Passed},
		{ratio, Limit{Min: 0.8}, Limit{Min: 0.9}, Reached},
		{ratio, Limit{Min: 0.901}, Limit{Min: 0.95}, Missed},
		// A most is of the value, also when there is a peer.
		{ratio, Limit{Max: 5}, Limit{Max: 4.9}, Passed},
		{ratio, Limit{Max: 4.9}, Limit{Max: 1}, Missed},
		// Without a peer a least is of the value.
		{Row{Value: 5}, Limit{Min: 5}, Limit{Min: 6}, Passed},
		{Row{Value: 0}, Limit{Zero: true}, Limit{}, Passed},
		{Row{Value: 1}, Limit{Zero: true}, Limit{}, Missed},
	} {
		c.row.Bar, c.row.Goal = c.bar, c.goal
		if got := c.row.Verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.row, got, c.want)
		}
	}
}

func TestLimitText(t *testing.T) {
	for _, c := range []struct {
		limit Limit
		want  string
	}{
		{Limit{}, ""}, {Limit{Min: 0.9}, ">= 0.90"}, {Limit{Min: 1}, ">= 1.00"}, {Limit{Min: 0.985}, ">= 0.985"},
		{Limit{Max: 1000}, "<= 1000"}, {Limit{Max: 0.3}, "<= 0.3"}, {Limit{Zero: true}, "= 0"},
	} {
		if got := c.limit.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.limit, got, c.want)
		}
	}
}

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "packets", "0 packets"}, {1, "packets", "1 packets"}, {999.4, "insn", "999 insn"}, {999.6, "insn", "1 k insn"},
		{3421, "insn/packet", "3.42 k insn/packet"}, {12_100_000, "insn", "12.1 M insn"}, {2.5e9, "insn", "2.5 G insn"}, {4e12, "insn", "4000 G insn"},
		{14, "ms", "14 ms"}, {0.11, "ms", "0.11 ms"}, {0.01234, "ms", "0.0123 ms"}, {1243, "ms", "1243 ms"},
		{37_000, "B", "37 kB"}, {512, "B", "512 B"}, {3.04e6, "B", "3.04 MB"}, {5.2, "MB", "5.2 MB"}, {100_000, "queries/CPU s", "100 k queries/CPU s"},
	} {
		if got := withUnit(c.v, c.unit); got != c.want {
			t.Errorf("%v %s: %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Row{ID: "a", What: "what", Ground: AMD64, Value: 1, Unit: "ms", Peer: 2, PeerWhat: "it", Ratio: 2, Bar: Limit{Min: 1}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Row){
		"ID":            func(r *Row) { r.ID = "" },
		"ground":        func(r *Row) { r.Ground = "arm" },
		"NaN":           func(r *Row) { r.Value = math.NaN() },
		"infinite":      func(r *Row) { r.Ratio = math.Inf(1) },
		"negative":      func(r *Row) { r.Value = -1 },
		"no ratio":      func(r *Row) { r.Ratio = 0 },
		"nameless peer": func(r *Row) { r.PeerWhat = "" },
		"only a goal":   func(r *Row) { r.Bar, r.Goal = Limit{}, Limit{Min: 1} },
		"two limits":    func(r *Row) { r.Bar = Limit{Min: 1, Max: 2} },
	} {
		bad := good
		if spoil(&bad); bad.Check() == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestMeasure(t *testing.T) {
	row := func(id string) Row { return Row{ID: id, What: "w", Ground: AMD64, Value: 1, Unit: "ms"} }
	for _, c := range []struct {
		name   string
		run    func(context.Context, *Env) ([]Row, error)
		wants  string
		rows   int
		failed string // part of the reason
	}{
		{"all", func(context.Context, *Env) ([]Row, error) { return []Row{row("a"), row("b")}, nil }, "", 2, ""},
		{"some asked for", func(_ context.Context, e *Env) ([]Row, error) { return []Row{row("a"), row("b")}, nil }, "^b$", 1, ""},
		{"one lacks", func(context.Context, *Env) ([]Row, error) { return []Row{row("a")}, nil }, "", 1, `"b" did not come`},
		{"fails on the way", func(context.Context, *Env) ([]Row, error) { return []Row{row("a")}, errors.New("no nft") }, "", 1, "no nft"},
		{"panics", func(context.Context, *Env) ([]Row, error) { panic("oh") }, "", 0, "panic: oh"},
		{"not announced", func(context.Context, *Env) ([]Row, error) { return []Row{row("a"), row("b"), row("c")}, nil }, "", 2, `"c" came`},
		{"no number", func(context.Context, *Env) ([]Row, error) {
			bad := row("b")
			bad.Value = math.NaN()
			return []Row{row("a"), bad}, nil
		}, "", 1, "value is NaN"},
	} {
		env := &Env{Log: io.Discard, Select: regexp.MustCompile(c.wants)}
		got := Measure(t.Context(), Group{Name: "g", Ground: AMD64, Rows: []string{"a", "b"}, Run: c.run}, env)
		if len(got.Rows) != c.rows || (got.Failed == "") != (c.failed == "") || !strings.Contains(got.Failed, c.failed) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
