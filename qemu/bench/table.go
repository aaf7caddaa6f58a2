package bench

import (
	"fmt"
	"strings"
)

// Widths of the table's columns; with the spaces between them 100 in all.
const (
	whatWidth  = 36
	valueWidth = 19
	peerWidth  = 9
	ratioWidth = 6
	limitWidth = 9
	fullWidth  = 100
)

// Table is the report for a terminal of 100 columns.
func (r Report) Table() string {
	var b strings.Builder
	for _, ground := range grounds {
		results := r.byGround()[ground.name]
		if len(results) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s\n\n", ground.heading)
		line(&b, "", "Culvert", "peer", "ratio", "bar", "goal", "result")
		for _, g := range results {
			for _, row := range g.Rows {
				tableRow(&b, row)
			}
			if g.Failed != "" {
				failed(&b, g)
			}
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "commit %s; Linux %s; %s\n", r.Commit, r.Kernel, r.CPU)
	return b.String()
}

func tableRow(b *strings.Builder, r Row) {
	what := wrap(r.What, whatWidth)
	peer, ratio := "", ""
	if r.PeerWhat != "" {
		peer, ratio = quantity(r.Peer, r.Unit), fmt.Sprintf("%.3f", r.Ratio)
	}
	line(b, what[0], withUnit(r.Value, r.Unit), peer, ratio, r.Bar.text(r), r.Goal.text(r), string(r.Verdict()))
	for _, more := range what[1:] {
		fmt.Fprintln(b, more)
	}
	if r.PeerWhat != "" {
		indented(b, "against "+r.PeerWhat)
	}
	if r.Note != "" {
		indented(b, r.Note)
	}
}

func failed(b *strings.Builder, g Result) {
	fmt.Fprintf(b, "%s: FAILED\n", g.Group)
	for l := range strings.SplitSeq(g.Failed, "\n") {
		indented(b, l)
	}
}

func line(b *strings.Builder, what, value, peer, ratio, bar, goal, verdict string) {
	s := fmt.Sprintf("%-*s %*s %*s %*s %*s %*s %6s", whatWidth, what, valueWidth, value, peerWidth, peer,
		ratioWidth, ratio, limitWidth, bar, limitWidth, goal, verdict)
	b.WriteString(strings.TrimRight(s, " ") + "\n")
}

func indented(b *strings.Builder, text string) {
	for _, l := range wrap(text, fullWidth-2) {
		b.WriteString("  " + l + "\n")
	}
}

// wrap breaks text between words. A word that is longer than the width stays whole.
func wrap(text string, width int) []string {
	lines := []string{""}
	for _, word := range strings.Fields(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len([]rune(*last))+1+len([]rune(word)) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
