package firewall_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
)

// opens sends one packet to each of many ports, each a connection of its own.
func (n *network) opens(ns *nettest.NS, to string, count int) {
	n.t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(func() { c, err = net.ListenPacket("udp4", ":0") })
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	dst := net.UDPAddr{IP: netip.MustParseAddr(to).AsSlice()}
	for i := range count {
		dst.Port = 10000 + i
		if _, err := c.WriteTo([]byte("x"), &dst); err != nil {
			n.t.Fatal(err)
		}
	}
}

// asksRouter sends from many ports to the router's resolver.
func (n *network) asksRouter(ns *nettest.NS, count int) {
	n.t.Helper()
	for range count {
		var c net.Conn
		var err error
		ns.Do(func() { c, err = net.Dial("udp4", "192.168.1.1:53") })
		if err != nil {
			n.t.Fatal(err)
		}
		c.Write([]byte("x"))
		c.Close()
	}
}

// holds is how many connections a device began.
func (n *network) holds(device string) (k int) {
	n.t.Helper()
	for _, e := range n.connections() {
		if e.Orig.Src.String() == device {
			k++
		}
	}
	return k
}

// TestShareOfConnections: one device holds a quarter of conntrack at most, to
// the Internet and to the router together. What it has goes on, others notice
// nothing, and it opens new ones as soon as old ones end.
func TestShareOfConnections(t *testing.T) {
	n := newNetwork(t)
	n.serve(n.wan, server+":80")
	n.answer(n.wan, server+":5000")
	share := firewall.Share(0)
	old, err := n.dial(n.pc, server+":80", hang)
	if err != nil {
		t.Fatal(err)
	}
	talk := func(text string) {
		t.Helper()
		old.SetDeadline(time.Now().Add(hang))
		b := make([]byte, 16)
		if _, err := old.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		for got := ""; len(got) < len(text); {
			k, err := old.Read(b[:len(text)-len(got)])
			if err != nil {
				t.Fatalf("a connection from before: %v", err)
			}
			got += string(b[:k])
		}
	}
	talk("0123456789abcdef") // its greeting is as long
	n.asksRouter(n.pc, 300)
	if k := n.holds(pcIP); k < 250 {
		t.Errorf("the device holds %d connections, want about 300", k)
	}
	// Far below its share none is refused, whichever part it draws.
	n.opens(n.pc, server, share/2-300)
	if k := n.holds(pcIP); k < share/2-50 {
		t.Errorf("the device holds %d connections, and opened %d", k, share/2)
	}
	n.opens(n.pc, server, 5*share)
	if k := n.holds(pcIP); k < share-10 || k > share+1 {
		t.Errorf("the device holds %d connections, want %d", k, share)
	}
	talk("still here")
	for i := range 20 {
		if got := n.ask(n.nas, server+":5000", hang); got != wanIP+" hello" {
			t.Fatalf("connection %d of another device: %q", i+1, got)
		}
	}
	if got := n.ask(n.pc, server+":5000", soon); got != "" {
		t.Errorf("one more than its share: %q", got)
	}
	before := n.holds(pcIP)
	n.asksRouter(n.pc, 100)
	if k := n.holds(pcIP); k > before {
		t.Errorf("%d connections to the router, more than its share", k-before)
	}
	n.forget(pcIP, share/2)
	for deadline := time.Now().Add(hang); n.ask(n.pc, server+":5000", soon) == ""; {
		if time.Now().After(deadline) {
			t.Fatal("the device opens nothing any more, though old connections ended")
		}
	}
	talk("and still")
}

// forget ends some UDP connections of a device.
func (n *network) forget(device string, count int) {
	n.t.Helper()
	n.rtr.Do(func() {
		c, err := conntrack.New()
		if err == nil {
			_, err = c.Delete(func(e *conntrack.Entry) bool {
				if count <= 0 || e.Protocol != 17 || e.Orig.Src.String() != device {
					return false
				}
				count--
				return true
			})
		}
		if err != nil {
			n.t.Error(err)
		}
	})
}
