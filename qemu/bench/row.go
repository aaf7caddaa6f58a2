// Package bench measures Culvert beside its peers, in one run, and says what came
// out: as a table, as JSON and as a picture. What is measured is in the packages
// below it; cmd/bench puts them together.
//
// Ratios within one run mean the same on every machine, absolute times do not.
// So a row has a peer where there is one, and counts work (instructions, CPU
// time) and not time, except where its unit is a time.
package bench

import (
	"errors"
	"fmt"
	"math"
)

// Grounds: where a row is measured.
const (
	QEMUMIPS = "qemu-mips" // the product's image in QEMU, whose clock counts instructions
	AMD64    = "amd64"     // network namespaces of the host, Culvert's packages built for it
)

// Row is one line of the table.
type Row struct {
	ID     string `json:"id"`     // "dns-hit-amd64": what -rows selects, the same in every version
	What   string `json:"what"`   // one line for people
	Ground string `json:"ground"` // QEMUMIPS or AMD64

	// Value is what Culvert does, Peer what the peer does in the same run, both in
	// Unit. A base unit ("insn", "insn/packet", "B", "queries/CPU s") is printed with
	// a prefix; "ms" stays "ms".
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Peer     float64 `json:"peer,omitempty"`
	PeerWhat string  `json:"peer_what,omitempty"` // "" when the bar is absolute
	// Ratio is Culvert against the peer: larger is better, whatever the unit. It is
	// 0 when there is no peer.
	Ratio float64 `json:"ratio,omitempty"`

	Bar  Limit  `json:"bar,omitzero"`  // what must hold
	Goal Limit  `json:"goal,omitzero"` // what is reachable
	Note string `json:"note,omitempty"`
}

// Verdict is what a row comes to.
type Verdict string

const (
	Reported Verdict = "-" // there is no bar
	Missed   Verdict = "MISSED"
	Passed   Verdict = "pass"
	Reached  Verdict = "goal" // the goal, and so the bar
)

// Verdict judges the row by its bar and its goal.
func (r Row) Verdict() Verdict {
	switch {
	case r.Bar == Limit{}:
		return Reported
	case !r.Bar.Pass(r.Judged(r.Bar)):
		return Missed
	case r.Goal != Limit{} && r.Goal.Pass(r.Judged(r.Goal)):
		return Reached
	}
	return Passed
}

// Judged is the number that l limits: the ratio for a least one, when the row has
// a peer, else the value.
func (r Row) Judged(l Limit) float64 {
	if l.ofRatio(r) {
		return r.Ratio
	}
	return r.Value
}

// Check tells what is wrong with a row, before it is printed as a measurement.
func (r Row) Check() error {
	var bad []error
	wrong := func(format string, args ...any) {
		bad = append(bad, fmt.Errorf("row %q: "+format, append([]any{r.ID}, args...)...))
	}
	if r.ID == "" || r.What == "" || r.Unit == "" {
		wrong("no ID, no What or no Unit")
	}
	if r.Ground != QEMUMIPS && r.Ground != AMD64 {
		wrong("unknown ground %q", r.Ground)
	}
	for name, v := range map[string]float64{"value": r.Value, "peer": r.Peer, "ratio": r.Ratio} {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			wrong("%s is %v", name, v)
		}
	}
	if hasPeer := r.PeerWhat != ""; hasPeer != (r.Ratio != 0) || hasPeer != (r.Peer != 0) {
		wrong("a peer has a name, a value and a ratio, or none of them: %q, %v, %v", r.PeerWhat, r.Peer, r.Ratio)
	}
	if (r.Bar == Limit{}) != (r.Goal == Limit{}) && r.Bar == (Limit{}) {
		wrong("a goal and no bar")
	}
	for _, l := range []Limit{r.Bar, r.Goal} {
		if n := l.kinds(); n > 1 {
			wrong("%d kinds of limit in one: %+v", n, l)
		}
	}
	return errors.Join(bad...)
}
