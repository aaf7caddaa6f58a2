package rtnl

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestInterruptedDumpIsRepeated(t *testing.T) {
	n := 0
	got, err := dump("things", func() (int, error) {
		if n++; n < 5 {
			return n, unix.EINTR
		}
		return n, nil
	})
	if got != 5 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	n = 0
	if _, err = dump("things", func() (int, error) { n++; return n, unix.EINTR }); !errors.Is(err, unix.EINTR) || n != dumpTries {
		t.Errorf("always interrupted: %v after %d tries", err, n)
	}
	n = 0
	if _, err = dump("things", func() (int, error) { n++; return n, unix.EPERM }); !errors.Is(err, unix.EPERM) || n != 1 {
		t.Errorf("refused: %v after %d tries", err, n)
	}
}

// TestTwice makes each change twice: what is there, or gone, is no error.
func TestTwice(t *testing.T) {
	nstest.Require(t)
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	br := netstate.Link{Name: "br0", Kind: netstate.Bridge, Up: true, MTU: 1400, MAC: "02:00:00:00:00:aa"}
	addr := netstate.Addr{Link: "br0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}
	rt := netstate.Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.9"), Dev: "br0",
		Table: 1067, Metric: 20, MTU: 1300, Protocol: netstate.RouteProtocol}
	do := func(c netstate.Change) {
		t.Helper()
		for range 2 {
			if err := h.Do(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, op := range []netstate.Op{netstate.AddLink, netstate.SetMAC, netstate.SetMTU, netstate.SetUp} {
		do(netstate.Change{Op: op, Link: br})
	}
	do(netstate.Change{Op: netstate.AddAddr, Addr: addr})
	do(netstate.Change{Op: netstate.AddRoute, Route: rt})
	rule := netstate.Rule{Iif: "br0", Protocol: 115}
	do(netstate.Change{Op: netstate.AddRule, Rule: rule})
	got, err := h.Observe()
	if err != nil {
		t.Fatal(err)
	}
	want := "link br0 bridge up mtu 1400 mac 02:00:00:00:00:aa\naddr 192.0.2.1/24 dev br0\n" +
		"route 198.51.100.0/24 via 192.0.2.9 dev br0 table 1067 metric 20 mtu 1300\n" +
		"rule iif br0 ipproto 115 prohibit\n"
	if out, err := exec.Command("ip", "rule", "show").Output(); err != nil || !strings.Contains(string(out), "iif br0 ipproto l2tp prohibit proto 67") {
		t.Errorf("ip rule shows %s, %v", out, err)
	}
	if got.Text() != want {
		t.Errorf("observed:\n%swant:\n%s", got.Text(), want)
	}
	do(netstate.Change{Op: netstate.DeleteRule, Rule: rule})
	do(netstate.Change{Op: netstate.DeleteRoute, Route: rt})
	do(netstate.Change{Op: netstate.DeleteAddr, Addr: addr})
	do(netstate.Change{Op: netstate.DeleteLink, Link: br})
	if got, err = h.Observe(); err != nil || got.Text() != "" {
		t.Errorf("left over: %s %v", got.Text(), err)
	}
}

func TestErrorsNameTheChange(t *testing.T) {
	nstest.Require(t)
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	err = h.Do(netstate.Change{Op: netstate.AddAddr, Addr: netstate.Addr{Link: "none0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}})
	if err == nil || !strings.HasPrefix(err.Error(), "ip addr add 192.0.2.1/24 dev none0: ") {
		t.Errorf("error: %v", err)
	}
	if err = h.Do(netstate.Change{Op: netstate.AddLink, Link: netstate.Link{Name: "eth9", Kind: netstate.Physical}}); err == nil {
		t.Error("a physical interface was made")
	}
}

func TestStats(t *testing.T) {
	nstest.Require(t)
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	stats, err := h.Stats()
	if _, ok := stats["lo"]; err != nil || !ok {
		t.Errorf("%v, %v", stats, err)
	}
}
