package rawudp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestProbe(t *testing.T) {
	nstest.Require(t)
	peer := nstest.NewPeer(t, "wan0", "srv0")
	peer.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "srv0")
	peer.Run("ip", "link", "set", "srv0", "address", "02:00:00:00:00:fe")
	got, err := Probe(t.Context(), "wan0", netip.MustParseAddr("192.0.2.1"), 5*time.Second)
	if err != nil || got.String() != "02:00:00:00:00:fe" {
		t.Errorf("probe of the peer's address: %v, %v; want an answer", got, err)
	}
	got, err = Probe(t.Context(), "wan0", netip.MustParseAddr("192.0.2.2"), 250*time.Millisecond)
	if got != nil || err != nil {
		t.Errorf("probe of a free address: %v, %v; want none", got, err)
	}
}

// TestSendReceive: two sockets on the ends of a wire that have no address.
func TestSendReceive(t *testing.T) {
	nstest.Require(t)
	nstest.IP(t, "link add a0 type veth peer name b0\nlink set a0 up\nlink set b0 up")
	t.Cleanup(func() { nstest.IP(t, "link del a0") })
	nstest.WaitUp(t, "a0")
	nstest.WaitUp(t, "b0")
	a, err := Listen("a0", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := Listen("b0", dst.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := a.Send([]byte("other port"), src, src, Broadcast[:]); err != nil {
		t.Fatal(err)
	}
	if err := a.Send([]byte("hello"), src, dst, b.HardwareAddr()); err != nil {
		t.Fatal(err)
	}
	type result struct {
		p    Packet
		from net.HardwareAddr
		err  error
	}
	got := make(chan result, 1)
	go func() {
		p, from, err := b.Receive()
		got <- result{p, from, err}
	}()
	select {
	case r := <-got:
		if r.err != nil || string(r.p.Payload) != "hello" || r.p.Src != src || r.p.Dst != dst || r.from.String() != a.HardwareAddr().String() {
			t.Errorf("got %+v", r)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing received")
	}
}
