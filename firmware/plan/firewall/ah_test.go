package firewall_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

// TestAH: AH is refused at once, and netd is told whose it was.
func TestAH(t *testing.T) {
	n := newNetwork(t)
	told := n.seconds()
	ah, icmp, far := n.raw(n.pc, unix.IPPROTO_AH), n.raw(n.pc, unix.IPPROTO_ICMP), n.raw(n.wan, unix.IPPROTO_AH)
	n.send(ah, server, append([]byte{50, 4}, make([]byte, 30)...))
	n.prohibited(icmp, unix.IPPROTO_AH)
	select {
	case p := <-told:
		if p.Prefix != passthrough.LogAH || netip.AddrFrom4([4]byte(p.Data[12:16])).String() != pcIP {
			t.Errorf("netd is told %q of %x", p.Prefix, p.Data)
		}
	case <-time.After(hang):
		t.Error("netd is not told of AH")
	}
	if k, _, err := unix.Recvfrom(far, make([]byte, 100), unix.MSG_DONTWAIT); err == nil {
		t.Errorf("%d bytes of AH came to the server", k)
	}
}
