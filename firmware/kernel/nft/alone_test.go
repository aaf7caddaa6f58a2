package nft_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// TestAlone needs no program but the kernel, so it also runs on the router's
// own: what is written is what is read, and host-order values (conntrack's state,
// marks) mean the same on big-endian machines.
func TestAlone(t *testing.T) {
	k := &kernel{t, nettest.New(t)}
	settle := func(want *rs.Table) {
		t.Helper()
		if err := k.apply(k.observe(), want); err != nil {
			t.Fatal(err)
		}
		if d := rs.Diff(want, k.observe()); len(d) > 0 {
			t.Fatalf("observed something else:\n%s", strings.Join(d, "\n"))
		}
	}
	settle(everything())
	settle(forwards(2000))
	settle(forwards(2001))

	var l net.Listener
	var err error
	k.ns.Do(func() { l, err = net.Listen("tcp4", "127.0.0.1:7000") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(timeout time.Duration) error {
		var err error
		k.ns.Do(func() {
			var c net.Conn
			if c, err = net.DialTimeout("tcp4", "127.0.0.1:7000", timeout); err == nil {
				c.Close()
			}
		})
		return err
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	input := func(sets []rs.Set, rules ...rs.Rule) *rs.Table {
		return &rs.Table{Sets: sets, Chains: []rs.Chain{{Name: "input", Type: "filter", Hook: rs.Input, Drop: true, Rules: rules}}}
	}
	ports := rs.Set{Name: "ports", Key: []rs.Type{rs.InetProto, rs.InetService}, Elements: []rs.Element{
		{Key: rs.Cat(rs.Protocol(rs.TCP), rs.PortNumber(7000))}}}
	known := rs.R("", rs.In{Key: rs.ProtocolPort(), Set: "ports"}, rs.Source{Prefix: loopback}, rs.New, accept)
	established := rs.R("", rs.Established, accept)
	settle(input([]rs.Set{ports}, established, known))
	if err := dial(10 * time.Second); err != nil {
		t.Errorf("a port in the set, new and established accepted: %v", err)
	}
	var ne net.Error
	settle(input([]rs.Set{ports}, known))
	if err := dial(300 * time.Millisecond); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("established is not accepted: %v", err)
	}
	settle(input([]rs.Set{ports}, established, rs.R("", rs.Source{Prefix: loopback, Not: true}, accept)))
	if err := dial(300 * time.Millisecond); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("the source is not accepted: %v", err)
	}

	k.ns.Do(func() { err = nft.New(nft.Options{}).ProbeFlowtable() })
	if err != nil {
		t.Skipf("missing capability: nftables flowtables in the kernel (CONFIG_NF_FLOW_TABLE): %v", err)
	}
	tab := everything()
	tab.Chains[1].Rules = append(tab.Chains[1].Rules, rs.R("offload", rs.L4{Protocol: rs.TCP}, rs.Offload{Flowtable: "ft"}))
	tab.Flowtables = []rs.Flowtable{{Name: "ft", Counter: true}}
	for _, devices := range [][]string{nil, {"lo"}, nil, {"lo"}} {
		settle(tab.WithFlowtableDevices(devices...))
	}
	if err := k.apply(k.observe(), tab.WithFlowtableDevices("nosuch0")); err == nil || !strings.Contains(err.Error(), "flowtable ft, devices [nosuch0]") {
		t.Errorf("a device that does not exist: %v", err)
	}
	settle(everything())
}
