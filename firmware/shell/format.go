package shell

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// table is text in columns. A column whose title begins with ">" is aligned right.
type table struct {
	titles []string
	rows   [][]string
}

func newTable(titles ...string) *table { return &table{titles: titles} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// fits tells whether the table is at most width wide, columns moved closer.
func (t *table) fits(width int) bool {
	for _, line := range t.lines(0) {
		if utf8.RuneCountInString(line) > width {
			return false
		}
	}
	return true
}

// lines are what write prints, the titles first.
func (t *table) lines(width int) []string {
	var b strings.Builder
	t.write(&b, width)
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// write prints the table; when it is wider than width its columns move closer.
func (t *table) write(w io.Writer, width int) {
	wide := make([]int, len(t.titles))
	right := make([]bool, len(t.titles))
	head := make([]string, len(t.titles))
	for i, title := range t.titles {
		head[i], right[i] = strings.CutPrefix(title, ">")
	}
	total := 0
	for _, row := range append([][]string{head}, t.rows...) {
		for i, cell := range row {
			wide[i] = max(wide[i], utf8.RuneCountInString(cell))
		}
	}
	for _, n := range wide {
		total += n + 2
	}
	gap := "  "
	if total-2 > width {
		gap = " "
	}
	for _, row := range append([][]string{head}, t.rows...) {
		var b strings.Builder
		for i, cell := range row {
			if i > 0 {
				b.WriteString(gap)
			}
			pad := strings.Repeat(" ", wide[i]-utf8.RuneCountInString(cell))
			if right[i] {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// age prints a duration in at most two units: 45s, 12m5s, 3h20m, 5d4h.
func age(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < 0:
		return "-" + age(-d)
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(d/time.Minute, "m", d%time.Minute/time.Second, "s")
	case d < 24*time.Hour:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "m")
	default:
		return two(d/(24*time.Hour), "d", d%(24*time.Hour)/time.Hour, "h")
	}
}

func two(a time.Duration, au string, b time.Duration, bu string) string {
	if b == 0 {
		return fmt.Sprintf("%d%s", a, au)
	}
	return fmt.Sprintf("%d%s%d%s", a, au, b, bu)
}

// size prints bytes in at most five characters: 999, 1.2K, 45M, 3.1G.
func size[N int64 | uint64](n N) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	f, units := float64(n), "KMGTPE"
	i := -1
	for f >= 999.5 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f%c", f, units[i])
	}
	return fmt.Sprintf("%.0f%c", f, units[i])
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func prefix(p netip.Prefix) string {
	if !p.IsValid() {
		return "-"
	}
	return p.String()
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func upDown(b bool) string {
	if b {
		return "up"
	}
	return "down"
}

func join[T fmt.Stringer](vs []T) string {
	ss := make([]string, len(vs))
	for i, v := range vs {
		ss[i] = v.String()
	}
	return dash(strings.Join(ss, ", "))
}

// Sentence is an error that a person reads as it is.
type Sentence string

func (s Sentence) Error() string { return string(s) }

// say is fmt.Errorf for complete sentences.
func say(format string, args ...any) error { return Sentence(fmt.Sprintf(format, args...)) }

// wrap breaks text at blanks into lines of at most width characters, each
// after indent; a longer word keeps its length.
func wrap(text, indent string, width int) string {
	var b strings.Builder
	x := 0
	for _, w := range strings.Fields(text) {
		n := utf8.RuneCountInString(w)
		switch {
		case x == 0:
			b.WriteString(indent)
			x = len(indent)
		case x+1+n > width-1: // a terminal may break a full line by itself
			b.WriteString("\n" + indent)
			x = len(indent)
		default:
			b.WriteByte(' ')
			x++
		}
		b.WriteString(w)
		x += n
	}
	return b.String() + "\n"
}
