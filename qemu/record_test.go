package qemu

import (
	"flag"
	"fmt"
	"html"
	"os"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

var record = flag.Bool("record", false, "write docs/show-passthrough.svg from a real session")

// TestRecord makes the picture of the README: what the shell prints while real
// clients have tunnels up.
func TestRecord(t *testing.T) {
	if !*record {
		return
	}
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	l.Online()
	for _, h := range l.C {
		l.Lease(h)
	}
	l.PPTPServer(l.S1)
	l.IPsecServer(l.S1, lab.Server1, "yes")
	l.IPsecServer(l.S2, lab.Server2, "no")
	together(t, l.C, func(h *peers.Host) (*lab.Tunnel, error) { return l.PPTP(h, lab.Server1) })
	together(t, l.C[:2], func(h *peers.Host) (*lab.Tunnel, error) { return l.IPsec(h, lab.Server1, "yes") })
	together(t, l.C[2:], func(h *peers.Host) (*lab.Tunnel, error) { return l.IPsec(h, lab.Server2, "no") })
	var session strings.Builder
	for _, command := range []string{"show passthrough", "show leases"} {
		out, err := l.Router.Command(command)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&session, "culvert> %s\n%s", command, strings.ReplaceAll(out, "\r", ""))
	}
	t.Log("\n" + session.String())
	if err := os.WriteFile("../docs/show-passthrough.svg", []byte(svg(session.String())), 0o644); err != nil {
		t.Fatal(err)
	}
}

// svg draws text as a terminal does.
func svg(text string) string {
	const width, height, margin = 8.4, 18, 14
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	columns := 0
	for _, l := range lines {
		columns = max(columns, len(l))
	}
	var b strings.Builder
	w, h := float64(columns)*width+2*margin, len(lines)*height+2*margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#101418"/>`+"\n")
	fmt.Fprintf(&b, `<g font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" fill="#d7dde3" xml:space="preserve">`+"\n")
	for i, l := range lines {
		colour := ""
		if strings.HasPrefix(l, "culvert>") {
			colour = ` fill="#7fd0ff"`
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" textLength="%.0f"%s>%s</text>`+"\n", margin, margin+(i+1)*height-5, float64(len(l))*width, colour, html.EscapeString(l))
	}
	b.WriteString("</g>\n</svg>\n")
	return b.String()
}
