package linear_test

import (
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
)

func TestReplace(t *testing.T) {
	nettest.Need(t, "nft")
	ns := nettest.New(t)
	var got []linear.Loading
	var err error
	ns.Do(func() {
		got, err = linear.Loader{Rounds: 3, LAN: "br-lan", WAN: "eth1"}.Replace(t.Context(), 0, 1000)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", got)
	if len(got) != 2 || got[0].Forwards != 0 || got[1].Forwards != 1000 {
		t.Fatalf("%+v", got)
	}
	// 3000 rules more take more of everything.
	if a, b := got[0], got[1]; a.CPU <= 0 || a.Wall <= 0 || b.CPU <= a.CPU {
		t.Errorf("1000 forwards cost no more than none: %+v", got)
	}
	if out := ns.Run(t, "nft list ruleset"); out != "" {
		t.Errorf("left behind:\n%.300s", out)
	}
	ns.Do(func() { _, err = linear.Loader{Nft: "false", Rounds: 1}.Replace(t.Context(), 1) })
	if err == nil || !strings.Contains(err.Error(), "1 forwards") {
		t.Errorf("nft fails: %v", err)
	}
}
