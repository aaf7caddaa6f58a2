package passthrough_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/passthrough"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// TestGoldens reads testdata/*.txtar: "conntrack" is a listing of conntrack(8)
// with -o ktimestamp, start= in seconds before now; "sessions" is what is shown.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var entries []conntrack.Entry
			for i, f := range a.Files {
				switch f.Name {
				case "conntrack":
					for l := range strings.Lines(string(f.Data)) {
						entries = append(entries, parse(t, l))
					}
				case "sessions":
					got := show(entries)
					if d := cmp.Diff(string(f.Data), got); d != "" && !*update {
						t.Errorf("(-golden +now):\n%s", d)
					}
					a.Files[i].Data = []byte(got)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

var now = time.Unix(1_800_000_000, 0)

func show(entries []conntrack.Entry) string {
	var relevant []conntrack.Entry
	for _, e := range entries {
		if passthrough.Relevant(&e) {
			relevant = append(relevant, e)
		}
	}
	var b strings.Builder
	for _, s := range passthrough.Sessions(relevant, passthrough.View{
		LAN: netip.MustParsePrefix("192.168.1.1/24"), Now: now, Uptime: time.Hour,
		Names: map[netip.Addr]string{netip.MustParseAddr("192.168.1.10"): "laptop"},
	}) {
		arrow := "->"
		if s.Inbound {
			arrow = "<-"
		}
		fmt.Fprintf(&b, "%s %s %s %s | %s %s | %s | %s | out %d/%d in %d/%d\n", s.Device, s.Name, arrow, s.Server,
			s.Protocol, s.Kind, s.IDs, s.Age, s.PktsOut, s.BytesOut, s.PktsIn, s.BytesIn)
	}
	return b.String()
}

// parse reads a line of conntrack(8).
func parse(t *testing.T, line string) conntrack.Entry {
	t.Helper()
	f := strings.Fields(line)
	p, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	e := conntrack.Entry{Protocol: uint8(p), Status: conntrack.SeenReply}
	tuple, master := &e.Orig, false
	seen := false
	for _, w := range f[2:] {
		k, v, _ := strings.Cut(w, "=")
		n, _ := strconv.ParseUint(v, 0, 64)
		switch k {
		case "src":
			if seen && !master {
				tuple = &e.Reply
			}
			seen = true
			tuple.Src = netip.MustParseAddr(v)
		case "dst":
			tuple.Dst = netip.MustParseAddr(v)
		case "sport", "srckey":
			tuple.SrcPort = uint16(n)
		case "dport", "dstkey":
			tuple.DstPort = uint16(n)
		case "packets":
			if tuple == &e.Orig {
				e.OrigPackets = n
			} else {
				e.ReplyPackets = n
			}
		case "bytes":
			if tuple == &e.Orig {
				e.OrigBytes = n
			} else {
				e.ReplyBytes = n
			}
		case "age":
			e.Start = now.Add(-time.Duration(n) * time.Second)
		case "master":
			tuple, master = &e.Master, true
		case "TIME_WAIT":
			e.TCPState = conntrack.TimeWait
		case "[UNREPLIED]":
			e.Status = 0
		}
	}
	return e
}
