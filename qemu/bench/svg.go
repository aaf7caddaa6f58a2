package bench

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// Geometry of the picture, in pixels.
const (
	svgWidth   = 860
	svgMargin  = 24
	barX       = svgMargin
	barUnit    = 300.0 // the bar: a score of 1
	barMax     = 2.0   // the score where the picture ends; what is better has an arrow
	barHeight  = 12
	rowHeight  = 50
	headHeight = 40
	valueX     = barX + barUnit*barMax + 28
	// lettersWide is how many letters have room beside the limits.
	lettersWide = 88
)

// svgStyle is for light, and for dark where the reader's browser says so. It has
// no custom properties, which not every viewer knows.
const svgStyle = `<style>
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}
.h{font-size:15px;font-weight:600}.b{font-weight:600}.e{text-anchor:end}.s{font-size:12px;fill:#59636e}
.paper{fill:#ffffff}.track{fill:#eaeef2}.goal{fill:#1a7f37}.pass{fill:#0969da}.MISSED{fill:#cf222e}
.bar{stroke:#1f2328;stroke-width:2}.aim{stroke:#1f2328;stroke-width:1.5;stroke-dasharray:3 2}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.s{fill:#9198a1}
.paper{fill:#0d1117}.track{fill:#262c36}.goal{fill:#3fb950}.pass{fill:#4493f8}.MISSED{fill:#f85149}
.bar,.aim{stroke:#e6edf3}}
</style>
`

// SVG is the report as a picture: a horizontal bar a row, drawn in the measure of
// the row's own limit, so that longer is better in each and the line of the bar
// is at the same place in all.
func (r Report) SVG() string {
	var b strings.Builder
	y := svgMargin + 18
	text(&b, svgMargin, y, "h", "Culvert beside its peers")
	y += 20
	text(&b, svgMargin, y, "s", "Longer is better. Solid line: the bar. Dashed line: the goal. An arrow: off the scale.")
	y += 12
	for _, ground := range grounds {
		results := r.byGround()[ground.name]
		if len(results) == 0 {
			continue
		}
		y += headHeight
		text(&b, svgMargin, y-12, "b", ground.heading)
		for _, g := range results {
			for _, row := range g.Rows {
				svgRow(&b, y, row)
				y += rowHeight
				if row.Verdict() == Reported {
					y -= rowHeight / 2
				}
			}
			if g.Failed != "" {
				first, _, _ := strings.Cut(g.Failed, "\n")
				text(&b, svgMargin, y+14, "MISSED", g.Group+" failed: "+clip(first, 110))
				y += rowHeight / 2
			}
		}
	}
	y += svgMargin
	text(&b, svgMargin, y, "s", fmt.Sprintf("commit %s; Linux %s; %s", r.Commit, r.Kernel, r.CPU))
	y += svgMargin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="Culvert beside its peers">`+"\n", svgWidth, y, svgWidth, y) +
		svgStyle + fmt.Sprintf(`<rect width="%d" height="%d" rx="8" class="paper"/>`+"\n", svgWidth, y) + b.String() + "</svg>\n"
}

func svgRow(b *strings.Builder, y int, r Row) {
	verdict := r.Verdict()
	what := clip(r.What, lettersWide)
	text(b, svgMargin, y+14, "", what, clip(labelled("against ", r.PeerWhat), lettersWide-len([]rune(what))))
	text(b, svgWidth-svgMargin, y+14, "s e", labelled("bar ", r.Bar.text(r))+labelled(" · goal ", r.Goal.text(r)))
	top := y + 22
	if verdict == Reported {
		if r.Ratio == 0 {
			text(b, valueX, y+14, "b", withUnit(r.Value, r.Unit))
		} else {
			text(b, valueX, y+14, "b", fmt.Sprintf("%.3f", r.Ratio), withUnit(r.Value, r.Unit))
		}
		return
	}
	rect(b, top, barMax, "track")
	score := r.Bar.score(r.Judged(r.Bar))
	rect(b, top, min(score, barMax), string(verdict))
	if score > barMax {
		x := barX + barUnit*barMax
		fmt.Fprintf(b, `<path d="M%g %d l9 %d l-9 %d z" class="%s"/>`+"\n", x, top, barHeight/2, barHeight/2, verdict)
	}
	mark(b, top, 1, "bar")
	if at, ok := r.goalAt(); ok {
		mark(b, top, at, "aim")
	}
	number := withUnit(r.Value, r.Unit)
	if r.Bar.ofRatio(r) {
		number = fmt.Sprintf("%.3f", r.Ratio)
	}
	text(b, valueX, top+11, "b", number)
	text(b, svgWidth-svgMargin, top+11, "e b "+string(verdict), string(verdict))
}

// goalAt is where the goal is in the measure of the bar, if it is in the picture
// and apart from the bar.
func (r Row) goalAt() (float64, bool) {
	var at float64
	switch {
	case r.Bar.Max != 0 && r.Goal.Max != 0:
		at = r.Bar.Max / r.Goal.Max
	case r.Bar.Min != 0 && r.Goal.Min != 0:
		at = r.Goal.Min / r.Bar.Min
	}
	return at, at > 1 && at <= barMax
}

func rect(b *strings.Builder, top int, score float64, class string) {
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" class="%s"/>`+"\n", barX, top, score*barUnit, barHeight, class)
}

func mark(b *strings.Builder, top int, score float64, class string) {
	x := barX + barUnit*score
	fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" class="%s"/>`+"\n", x, x, top-3, top+barHeight+3, class)
}

// text writes s, and what is softer in more.
func text(b *strings.Builder, x, y int, class, s string, more ...string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" class="%s">`, x, y, class)
	xml.EscapeText(b, []byte(s)) // a strings.Builder does not fail
	for _, soft := range more {
		b.WriteString(`<tspan class="s" dx="8">`)
		xml.EscapeText(b, []byte(soft))
		b.WriteString("</tspan>")
	}
	b.WriteString("</text>\n")
}

func labelled(label, s string) string {
	if s == "" {
		return ""
	}
	return label + s
}

// clip is s, cut to n letters where it is longer.
func clip(s string, n int) string {
	if n < 2 {
		return ""
	}
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
