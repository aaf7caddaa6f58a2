package linear_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
)

// input is a router with an owner and an address.
func input(t *testing.T, commands string) firewall.Input {
	t.Helper()
	s := settings.Default()
	for line := range strings.Lines(commands) {
		words, err := settings.Split(strings.TrimSpace(line))
		if err == nil && len(words) > 0 {
			err = settings.Set(s, words[1:])
		}
		if err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(line), err)
		}
	}
	if p := s.Validate(); len(p) > 0 {
		t.Fatal(p)
	}
	return firewall.Input{LANDevice: "br-lan", WANDevice: "eth1", LAN: s.LAN.Address, WAN: []netip.Addr{netip.MustParseAddr("203.0.113.2")},
		Claimed: true, Settings: s}
}

func linearOf(t *testing.T, in firewall.Input, rules ...linear.Rule) *linear.Ruleset {
	t.Helper()
	r, err := linear.Policy(in, rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func policy(t *testing.T, in firewall.Input, rules ...linear.Rule) string {
	t.Helper()
	return linearOf(t, in, rules...).Text()
}

var refused = linear.Rule{Name: "no telnet there", Protocol: "tcp", Dest: netip.MustParseAddr("198.51.100.1"), Port: 23}

func TestGolden(t *testing.T) {
	golden.Run(t, func(t *testing.T, in map[string]string) map[string]string {
		return map[string]string{"nft": policy(t, input(t, in["commands"]), refused)}
	})
}

// TestShape counts what makes it linear.
func TestShape(t *testing.T) {
	count := func(text, pattern string) int { return len(regexp.MustCompile(`(?m)`+pattern).FindAllString(text, -1)) }
	in := input(t, "")
	empty := policy(t, in)
	if n := count(empty, `hook (prerouting|forward|postrouting) `); n != 8 {
		t.Errorf("%d base chains on the way of a forwarded packet, want 8", n)
	}
	in.Settings.Firewall.Forwards = linear.Forwards(in.LAN, 100)
	in.Settings.Firewall.Offload = false
	full := policy(t, in, linear.Rules(50)...)
	if n := count(full, `^\s*(set|map) |@|iif |oif `); n != 0 {
		t.Errorf("%d sets, maps or indexes of interfaces", n)
	}
	in.Settings.Firewall.Forwards = nil
	if n := count(full, `comment`) - count(policy(t, in), `comment`); n != 3*100+50 {
		t.Errorf("100 forwards and 50 rules are %d rules, want 350", n)
	}
}

// TestNftAccepts: every text, each of them over each other.
func TestNftAccepts(t *testing.T) {
	nettest.Need(t, "nft")
	ns := nettest.New(t)
	ns.Run(t, "ip link add br-lan type bridge\nip link add eth1 type veth peer name peer")
	some := input(t, "set firewall offload off\nset firewall wan-ping on\nset ssh wan on\nset firewall forward a port 80\nset firewall forward a to 192.168.1.20\n"+
		"set firewall forward b protocol tcp+udp\nset firewall forward b port 81\nset firewall forward b to 192.168.1.20\nset firewall forward b to-port 82")
	many := input(t, "set firewall offload off")
	many.Settings.Firewall.Forwards = linear.Forwards(many.LAN, 1000)
	if p := many.Settings.Validate(); len(p) > 0 {
		t.Fatal(p[0])
	}
	for _, text := range []string{policy(t, some), linear.Floor("eth1").Text(), policy(t, many, linear.Rules(1000)...), linear.Plain().Text(), linear.Plain().Text()} {
		for _, args := range [][]string{{"-c", "-f", "-"}, {"-f", "-"}} {
			if out, err := ns.Output(text, "nft", args...); err != nil {
				t.Fatalf("nft %v: %v\n%.2000s", args, err, out)
			}
		}
	}
	if out := ns.Run(t, "nft list ruleset"); out != "" {
		t.Errorf("plain is not plain:\n%s", out)
	}
	// Offload is by itself, because a kernel may lack it.
	if out, err := ns.Output(policy(t, input(t, "")), "nft", "-c", "-f", "-"); err != nil {
		if !strings.Contains(out, "flow") {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log("missing capability: flowtables in this kernel")
	}
}

func TestNotRendered(t *testing.T) {
	for _, commands := range []string{"set passthrough l2tp off", "set firewall vpn-server wireguard to 192.168.1.20"} {
		in := input(t, commands)
		if r, err := linear.Policy(in, nil); err == nil {
			t.Errorf("%s: renders what it has no rules for:\n%.300s", commands, r.Text())
		}
	}
}

// TestForwardsAndRules: what is generated is as many as wanted, and each its own.
func TestForwardsAndRules(t *testing.T) {
	lan := settings.Default().LAN.Address
	for _, n := range []int{0, 1, 1000, 10000} {
		seen := map[string]bool{}
		for name, f := range linear.Forwards(lan, n) {
			seen[fmt.Sprint(f.Protocol, f.Port)] = true
			if !lan.Contains(f.To) || name == "" {
				t.Fatalf("%s: %+v", name, f)
			}
		}
		if len(seen) != n {
			t.Errorf("%d forwards of %d ports", n, len(seen))
		}
		dests := map[linear.Rule]bool{}
		for _, r := range linear.Rules(n) {
			r.Name = ""
			dests[r] = true
		}
		if len(dests) != n {
			t.Errorf("%d rules, %d different ones", n, len(dests))
		}
	}
}
