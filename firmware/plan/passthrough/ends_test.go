package passthrough

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestRefusals: who may, by address, by MAC and by name, and why not.
func TestRefusals(t *testing.T) {
	s := settings.Default()
	for line := range strings.Lines(`lan hosts laptop mac 02:00:00:00:00:0a address 192.168.1.20
		lan hosts phone mac 02:00:00:00:00:0b
		lan groups kids members phone 192.168.1.64/26
		passthrough pptp devices laptop kids
		passthrough l2tp servers vpn.example.com 198.51.100.0/25
		passthrough ipsec off`) {
		if err := settings.Set(s, strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
	}
	a := netip.MustParseAddr
	f := facts.Facts{
		Names: []facts.Name{{Name: "other.example.com", Addrs: []netip.Addr{a("203.0.113.8")}}, {Name: "vpn.example.com", Addrs: []netip.Addr{a("203.0.113.9")}}},
		Leases: []facts.Lease{
			{MAC: "02:00:00:00:00:0b", Addr: a("192.168.1.150"), Name: "tv"},
			{MAC: "02:00:00:00:00:0c", Addr: a("192.168.1.151"), Name: "phone"},
			{MAC: "02:00:00:00:00:0b", Addr: a("192.168.1.20")}, // given out before it was the laptop's
		},
	}
	for _, c := range []struct{ device, mac, server, want string }{
		{"192.168.1.20", "02:00:00:00:00:0a", "203.0.113.9", ""},
		{"192.168.1.20", "", "203.0.113.9", ""},
		{"192.168.1.20", "02:00:00:00:00:0b", "198.51.100.127",
			"pptp devices: 192.168.1.20 is the address of laptop, whose hardware address is 02:00:00:00:00:0a, but 02:00:00:00:00:0b has it now|"},
		{"192.168.1.150", "02:00:00:00:00:0b", "203.0.113.8", "l2tp servers: |"},
		{"192.168.1.151", "02:00:00:00:00:0c", "198.51.100.128", "pptp devices: |l2tp servers: |"},
		{"192.168.1.65", "02:00:00:00:00:0c", "203.0.113.9", ""},
		{"192.168.1.21", "02:00:00:00:00:0a", "203.0.113.9", "pptp devices: |"}, // not an address that it is known to have
	} {
		got := ""
		for _, r := range Refusals(s, f, a(c.device), c.mac, a(c.server)) {
			got += fmt.Sprintf("%s %s: %s|", r.Protocol, r.List, r.Why)
		}
		if got != c.want {
			t.Errorf("%s %s to %s: %q, want %q", c.device, c.mac, c.server, got, c.want)
		}
	}
}

// TestOutdated: what was learned ends tunnels only where less is right now.
func TestOutdated(t *testing.T) {
	s := settings.Default()
	for _, words := range []string{"lan hosts phone mac 02:00:00:00:00:0b", "passthrough l2tp devices phone", "passthrough ipsec servers vpn.example.com"} {
		if err := settings.Set(s, strings.Fields(words)); err != nil {
			t.Fatal(err)
		}
	}
	know := func(lease string, server ...string) (f facts.Facts) {
		if lease != "" {
			f.Leases = []facts.Lease{{MAC: "02:00:00:00:00:0b", Addr: netip.MustParseAddr(lease)}}
		}
		n := facts.Name{Name: "vpn.example.com"}
		for _, x := range server {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(x))
		}
		f.Names = []facts.Name{n}
		return f
	}
	for _, c := range []struct {
		name     string
		old, new facts.Facts
		want     string
	}{
		{"nothing", know("192.168.1.150", "203.0.113.9"), know("192.168.1.150", "203.0.113.9"), ""},
		{"another address is right too", know("192.168.1.150", "203.0.113.9"), know("192.168.1.150", "203.0.113.9", "203.0.113.10"), ""},
		{"the first lease", know("", "203.0.113.9"), know("192.168.1.150", "203.0.113.9"), ""},
		{"an address is gone", know("", "203.0.113.9", "203.0.113.10"), know("", "203.0.113.10"), "udp 500|udp 4500|"},
		{"another lease", know("192.168.1.150"), know("192.168.1.151"), "udp 1701|"},
	} {
		got := ""
		for _, x := range Outdated(s, c.old, c.new) {
			got += strings.Join(strings.Fields(x.Text())[:2], " ") + "|"
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
