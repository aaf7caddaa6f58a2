package slowpath

import (
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// TestMeasures runs both, short, twice in one namespace: what the first leaves
// would break the second.
func TestMeasures(t *testing.T) {
	nettest.Need(t, "nft")
	ns := nettest.New(t)
	o := Options{Packets: 20000, Flows: 2000, Rounds: 3}
	var established, few, many map[Peer]Rounds
	var err, err2, err3 error
	ns.Do(func() {
		established, err = Established(t.Context(), o)
		few, err2 = New(t.Context(), o, 0, 0)
		many, err3 = New(t.Context(), o, 1000, 10)
	})
	if err != nil || err2 != nil || err3 != nil {
		t.Fatal(err, err2, err3)
	}
	t.Log(established, few, many)
	for p, r := range established {
		if len(r) != o.Rounds || r.Median() < 50*time.Nanosecond {
			t.Errorf("%s: %v", p, r)
		}
	}
	// The order is known, by more than any noise: rules cost.
	if established[Plain].Against(established[Linear]) < 1.1 {
		t.Errorf("forwarding costs as much as the whole linear policy: %v", established)
	}
	if few[Linear].Against(many[Linear]) < 2 {
		t.Errorf("2000 linear rules more cost a new flow nothing: %v, %v", few, many)
	}
	if links := ns.Run(t, "ip -br link\nnft list ruleset"); len(links) > 100 {
		t.Errorf("left behind:\n%.300s", links)
	}
}

func TestRounds(t *testing.T) {
	ours, theirs := Rounds{10, 30, 20}, Rounds{20, 90, 20}
	if ours.Median() != 20 || ours.Against(theirs) != 2 {
		t.Errorf("%v, %v", ours.Median(), ours.Against(theirs))
	}
}
