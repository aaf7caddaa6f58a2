package netd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestInOrder: who is named goes in first, whoever knocked before.
func TestInOrder(t *testing.T) {
	s := settings.Default()
	change(t, s, []string{"passthrough priority 192.168.1.30 192.168.1.20"})
	d := &daemon{want: &plan.Desired{Settings: s}, facts: facts.Facts{}}
	at := func(host byte) pair {
		return pair{server: netip.MustParseAddr("198.51.100.1"), device: netip.AddrFrom4([4]byte{192, 168, 1, host})}
	}
	waiting := map[pair]int{at(10): 1, at(20): 2, at(30): 1, at(40): 5}
	got := fmt.Sprint((&tunnels{d: d}).inOrder(waiting))
	if want := fmt.Sprint([]pair{at(30), at(20), at(10), at(40)}); got != want {
		t.Errorf("in order: %s, want %s", got, want)
	}
}

// TestPriorityTakesOver: without copies a server is the device's that is named,
// though another one came first.
func TestPriorityTakesOver(t *testing.T) {
	t.Cleanup(func() { forgetUDP(t) })
	r := newRouter(t, "203.0.113", "passthrough ipsec copy off")
	r.online()
	r.home("192.168.1.10", "192.168.1.20")
	server := r.udp(r.isp, "203.0.113.1:500")
	first, second := r.udp(r.pc, "192.168.1.10:500"), r.udp(r.pc, "192.168.1.20:500")
	// seen is the port that the server sees a device's IKE from.
	cookie := uint64(0x1122334455667700)
	seen := func(c net.PacketConn) (int, error) {
		cookie++
		header := make([]byte, 28)
		binary.BigEndian.PutUint64(header, cookie)
		if _, err := c.WriteTo(header, &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 500}); err != nil {
			return 0, err
		}
		server.SetReadDeadline(time.Now().Add(time.Second))
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return 0, err
			}
			if n == len(header) && binary.BigEndian.Uint64(b) == cookie {
				return from.(*net.UDPAddr).Port, nil
			}
		}
	}
	want := func(c net.PacketConn, keeps bool) {
		t.Helper()
		r.until(fmt.Sprintf("%v keeps port 500: %v", c.LocalAddr(), keeps), func() error {
			port, err := seen(c)
			if err == nil && (port == 500) != keeps {
				err = fmt.Errorf("port %d", port)
			}
			return err
		})
	}
	want(first, true)
	want(second, false)
	candidate, base := r.candidate("passthrough priority 192.168.1.20")
	if _, err := r.commit(base, candidate, 0); err != nil {
		t.Fatal(err)
	}
	want(second, true)
	want(first, false)
	var c api.PassthroughCounters
	if err := r.call(api.MethodCounters, nil, &c); err != nil || c.Keeper.String() != "192.168.1.20" {
		t.Errorf("counters: %v, %v", c.Keeper, err)
	}
}
