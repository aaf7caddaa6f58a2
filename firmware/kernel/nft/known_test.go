package nft_test

import (
	"testing"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// TestKnown: a table that only we changed, by elements, is not read again, and
// one that anybody else touched is.
func TestKnown(t *testing.T) {
	nettest.Need(t, "nft")
	ns := nettest.New(t)
	c := nft.New(nft.Options{})
	observe := func() (tab *rs.Table) {
		t.Helper()
		var err error
		ns.Do(func() { tab, err = c.Observe() })
		if err != nil {
			t.Fatal(err)
		}
		return tab
	}
	apply := func(from, to *rs.Table) (err error) {
		ns.Do(func() { err = c.Apply(from, to) })
		return err
	}
	must := func(from, to *rs.Table) {
		t.Helper()
		if err := apply(from, to); err != nil {
			t.Fatal(err)
		}
	}
	first, more := forwards(10), forwards(12)
	must(nil, first)
	seen := observe()
	if seen == first || !rs.Equal(first, seen) {
		t.Fatalf("what was written as a whole has to be read back: %v", rs.Diff(first, seen))
	}
	c.Agreed(first, seen)
	if observe() != first {
		t.Error("what was agreed on is forgotten")
	}
	must(first, more)
	if observe() != more {
		t.Error("what our own elements made of it is not known")
	}
	// Somebody else made the table of family ip.
	ns.Run(t, "nft add table ip culvert")
	if now := observe(); now == more || rs.Equal(more, now) {
		t.Error("a table of somebody else's is not seen")
	}
	ns.Run(t, "nft delete table ip culvert")
	ns.Run(t, "nft delete element inet culvert forwards { tcp . 1 }")
	now := observe()
	if d := rs.Diff(more, now); len(d) != 1 {
		t.Errorf("an element that somebody else deleted: %v", d)
	}
	// A transaction that fails leaves nothing that is taken for known.
	if err := apply(more, forwards(0)); err == nil {
		t.Fatal("an element was deleted twice")
	}
	if again := observe(); again == now || !rs.Equal(now, again) {
		t.Errorf("after a failure: %v", rs.Diff(now, again))
	}
}
