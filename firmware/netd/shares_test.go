package netd

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

// TestShares: a device with more than a quarter of a set learns nothing more,
// and the router says so.
func TestShares(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10")
	counters := func() (c api.PassthroughCounters) {
		t.Helper()
		if err := r.call(api.MethodCounters, nil, &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	size := 0
	for _, s := range counters().Sets {
		if s.Name == passthrough.Sends {
			size = s.Max
		}
	}
	r.stop()
	var elements bytes.Buffer
	for i := range passthrough.Share(size) + 1 {
		fmt.Fprintf(&elements, "add element ip culvert sends { 203.0.113.1 . 10.0.%d.%d . 192.168.1.10 }\n", i>>8, i&255)
	}
	file := filepath.Join(t.TempDir(), "elements")
	if err := os.WriteFile(file, elements.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := nftables("-f", file); out != "" {
		t.Fatal(out)
	}
	r.start()
	r.until("the device is known to have too much", func() error {
		if c := counters(); len(c.Crowding) != 1 || c.Crowding[0].String() != "192.168.1.10" {
			return fmt.Errorf("crowding: %v", c.Crowding)
		}
		return nil
	})
	if all := strings.Join(r.status().Problems, "\n"); !strings.Contains(all, "192.168.1.10 has more than a quarter") {
		t.Errorf("the status does not tell:\n%s", all)
	}
	within(t, r.pc, func() error {
		esp := r.sender(func() (net.PacketConn, error) { return net.ListenPacket("ip4:50", "192.168.1.10") })
		for range 3 {
			if _, err := esp.WriteTo(append([]byte{0xc0, 0xff, 0xee, 0x01}, make([]byte, 36)...), &net.IPAddr{IP: net.IPv4(203, 0, 113, 9)}); err != nil {
				return err
			}
		}
		return nil
	})
	r.until("what it sends too much is counted", func() error {
		if c := counters(); len(c.Dropped) != 1 || c.Dropped[0].Packets != 3 || c.Dropped[0].Device.String() != "192.168.1.10" {
			return fmt.Errorf("dropped: %+v", c.Dropped)
		}
		return nil
	})
}
