package linear_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
)

// TestLoadIsText: what is loaded by netlink is what nft makes of the text.
func TestLoadIsText(t *testing.T) {
	nettest.Need(t, "nft")
	byNft, byNetlink := nettest.New(t), nettest.New(t)
	for _, ns := range []*nettest.NS{byNft, byNetlink} {
		ns.Run(t, "ip link add br-lan type bridge\nip link add eth1 type veth peer name peer")
	}
	some := input(t, commands+"\nset firewall wan-ping on\nset ssh wan on\nset lan dhcp start 10\nset lan dhcp end 60\nset lan address 192.168.1.1/26")
	many := input(t, "set firewall offload off")
	many.Settings.Firewall.Forwards = linear.Forwards(many.LAN, 300)
	for name, r := range map[string]*linear.Ruleset{"policy": linearOf(t, some, refused), "many": linearOf(t, many, linear.Rules(300)...), "floor": linear.Floor("eth1"), "plain": linear.Plain()} {
		if out, err := byNft.Output(r.Text(), "nft", "-f", "-"); err != nil {
			t.Fatalf("%s: %v\n%.2000s", name, err, out)
		}
		for range 2 { // the second replaces the first
			var err error
			if byNetlink.Do(func() { err = r.Load() }); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		// What the kernel was told, not only what nft calls it.
		for _, list := range []string{"nft list ruleset", "nft --debug=netlink list ruleset"} {
			if d := cmp.Diff(listing(byNft.Run(t, list)), listing(byNetlink.Run(t, list))); d != "" {
				t.Errorf("%s, %s (-nft +netlink):\n%.3000s", name, list, d)
			}
		}
	}
}

// listing has the elements of sets at its end: their order is the kernel's.
func listing(text string) string {
	var lines, elements []string
	for l := range strings.Lines(nettest.NormalListing(text)) {
		if strings.Contains(l, "element ") {
			elements = append(elements, l)
		} else {
			lines = append(lines, l)
		}
	}
	slices.Sort(elements)
	return strings.Join(append(lines, elements...), "")
}
