package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// What is taken from an earlier plan is what would have been made anew.
func TestBefore(t *testing.T) {
	b := Board{LANPorts: []string{"eth0"}, WANPort: "eth1", RAM: 64}
	s := settings.Default()
	f := facts.Facts{WAN: &facts.WANLease{Address: netip.MustParsePrefix("203.0.113.5/24"), Gateway: netip.MustParseAddr("203.0.113.1")}}
	var before *Desired
	shared := 0
	for _, line := range []string{
		"firewall forward a port 80 to 192.168.1.10", "firewall forward b port 81 to 192.168.1.11 protocol tcp+udp",
		"dns cache-size 300", "firewall forward a off", "firewall forward a on", "firewall wan-ping on", "firewall offload off",
		"firewall vpn-server wireguard to 192.168.1.20", "firewall forward c port 51820 to 192.168.1.12", "firewall vpn-server ipsec to 192.168.1.21",
		"passthrough pptp off", "lan hosts pc mac 02:00:00:00:00:01 address 192.168.1.30", "passthrough ipsec devices pc",
		"ssh wan on", "ssh port 2222", "system hostname other", "lan dhcp off", "lan address 192.168.7.1/24", "firewall forward d port 90 to 192.168.7.9",
		"wan mode static", "facts", "claimed",
	} {
		s = s.Clone() // what a plan was made of stays as it is
		switch line {
		case "facts":
			f.Names = []facts.Name{{Name: "x", Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}}
		case "claimed":
			s.System.Admin.Keys = []string{"ssh-ed25519 AAAA"}
		default:
			words, err := settings.Split(line)
			if err == nil {
				err = settings.Set(s, words)
			}
			if err != nil {
				t.Fatal(line, err)
			}
		}
		anew, p := For(b, s, f, Options{})
		again, p2 := For(b, s, f, Options{Before: before})
		if (p == nil) != (p2 == nil) {
			t.Fatal(line, p, p2)
		}
		if p != nil {
			continue
		}
		if anew.Rules.Text() != again.Rules.Text() || !slices.Equal(anew.Problems, again.Problems) {
			t.Errorf("after %q: anew\n%s\nwith before\n%s\nproblems %q, %q", line, anew.Rules.Text(), again.Rules.Text(), anew.Problems, again.Problems)
		}
		if before != nil && &before.Rules.Chains[0] == &again.Rules.Chains[0] {
			shared++
		}
		before = again
	}
	if shared < 5 {
		t.Errorf("only %d plans shared anything", shared)
	}
}
