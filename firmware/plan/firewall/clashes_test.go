package firewall_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

// TestClashes: L2TPv3 over IP has no ports, so a second device's packets to the
// same server are dropped, and counted.
func TestClashes(t *testing.T) {
	n := newNetwork(t)
	clashes := func() (c uint64) {
		var err error
		n.rtr.Do(func() { c, err = (&conntrack.Conn{}).Clashes() })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	hear := n.raw(n.wan, unix.IPPROTO_L2TP)
	n.send(n.raw(n.pc, unix.IPPROTO_L2TP), server, []byte("\x00\x00\x08\x00first....."))
	n.receive(hear, "first", "")
	if c := clashes(); c != 0 {
		t.Errorf("%d clashes of one device", c)
	}
	nas := n.raw(n.nas, unix.IPPROTO_L2TP)
	for range 3 {
		n.send(nas, server, []byte("\x00\x00\x08\x00second...."))
	}
	until(t, "three clashes", hang, func() bool { return clashes() >= 3 })
}
