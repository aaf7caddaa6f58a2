package diagnose_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/firmware/golden"
)

// TestJudge reads testdata/*.txtar: "seen" is a diagnose.Seen as JSON over a
// router that is online, "said" is what is told.
func TestJudge(t *testing.T) {
	causes := map[string]bool{}
	golden.Run(t, func(t *testing.T, in map[string]string) map[string]string {
		s := diagnose.Seen{
			Device: netip.MustParseAddr("192.168.1.10"), Name: "laptop", Server: netip.MustParseAddr("198.51.100.10"), ServerName: "vpn.example.com",
			WAN: netip.MustParseAddr("203.0.113.50"), ClockSet: true,
		}
		d := json.NewDecoder(strings.NewReader(in["seen"]))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		got := diagnose.Judge(s)
		causes[got.Cause] = true
		said := fmt.Sprintf("%s, %s, settled %v\n%s\n", got.Cause, got.Protocol, got.Settled, got.Text)
		for _, l := range append([]string{got.Fix}, got.Hints...) {
			if l != "" {
				said += "> " + l + "\n"
			}
		}
		return map[string]string{"said": said}
	})
	for _, c := range diagnose.Causes {
		if !causes[c] {
			t.Errorf("no golden shows the cause %q", c)
		}
	}
}

func TestMerge(t *testing.T) {
	old, now := 300*time.Second, 5*time.Second
	known := []diagnose.Flow{{Part: diagnose.Control, Age: old}, {Part: diagnose.GRE, Age: old}, {Part: diagnose.L2TP, Age: old}, {Part: diagnose.ESP, Age: old}}
	got := diagnose.Merge(known, []diagnose.Flow{{Part: diagnose.GRE, Age: now, Watched: true}, {Part: diagnose.IKE, Age: now, Watched: true}})
	want := []diagnose.Flow{
		{Part: diagnose.GRE, Age: old, Watched: true}, // it has been there longer than anybody watched
		{Part: diagnose.IKE, Age: now, Watched: true},
		{Part: diagnose.Control, Age: old}, // stands, and is silent
		{Part: diagnose.L2TP, Age: old},
		// The ESP is of an IPsec attempt before this one.
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if slices.ContainsFunc(known, func(f diagnose.Flow) bool { return f.Watched }) {
		t.Error("what was known is changed")
	}
}
