package plan

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func TestCutsSession(t *testing.T) {
	f := facts.Facts{
		WAN: &facts.WANLease{Address: netip.MustParsePrefix("203.0.113.20/24"), Gateway: netip.MustParseAddr("203.0.113.1"),
			DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}},
		Leases: []facts.Lease{{Addr: netip.MustParseAddr("192.168.1.100")}},
	}
	conn := func(local, remote string) Conn {
		return Conn{netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)}
	}
	lan := conn("192.168.1.1:22", "192.168.1.100:5000")
	byHand := conn("192.168.1.1:22", "192.168.1.7:5000")
	mapped := conn("[::ffff:192.168.1.1]:22", "[::ffff:192.168.1.100]:5000")
	hairpin := conn("203.0.113.20:22", "192.168.1.100:5000")
	wan := conn("203.0.113.20:22", "198.51.100.9:5000")
	const open = "ssh wan on"
	for _, c := range []struct {
		name     string
		conn     Conn
		old, new string // set commands, by semicolon
		cut      bool
		address  string
	}{
		{"nothing", lan, "", "", false, "192.168.1.1"},
		{"another host name", lan, "", "system hostname box", false, "192.168.1.1"},
		{"another LAN", lan, "", "lan address 192.168.77.1/24", true, "192.168.77.1"},
		{"another LAN, IPv4 in IPv6", mapped, "", "lan address 192.168.77.1/24", true, "192.168.77.1"},
		{"another address in the LAN", lan, "", "lan address 192.168.1.2/24", true, "192.168.1.2"},
		{"a LAN that leaves the device out", byHand, "", "lan address 192.168.1.1/30; lan dhcp off", true, "192.168.1.1"},
		{"a larger LAN, for an address by hand", byHand, "", "lan address 192.168.1.1/16", false, "192.168.1.1"},
		{"a larger LAN, whose pool begins elsewhere", lan, "", "lan address 192.168.1.1/16", true, "192.168.1.1"},
		{"another port", lan, "", "ssh port 2222", true, "192.168.1.1 port 2222"},
		{"another LAN and port", lan, "", "lan address 10.0.0.1/24; ssh port 2222", true, "10.0.0.1 port 2222"},
		{"no DHCP for a leased address", lan, "", "lan dhcp off", true, "192.168.1.1"},
		{"a pool without the leased address", lan, "", "lan dhcp start 150", true, "192.168.1.1"},
		{"no DHCP for an address by hand", byHand, "", "lan dhcp off", false, "192.168.1.1"},
		{"the WAN, seen from the LAN", lan, "", "wan mtu 1400", false, "192.168.1.1"},
		{"the WAN's address, used from the LAN", hairpin, "", "wan mode static; wan static address 198.51.100.2/24; wan static gateway 198.51.100.1; dns upstreams 9.9.9.9", true, "192.168.1.1"},
		{"SSH closed on the WAN", wan, open, "ssh wan off", true, "192.168.1.1"},
		{"the WAN's MTU", wan, open, "wan mtu 1400", true, "203.0.113.20"},
		{"the WAN's address", wan, open, "wan mode static; wan static address 198.51.100.2/24; wan static gateway 198.51.100.1; dns upstreams 9.9.9.9", true, "198.51.100.2"},
		{"another LAN, seen from the WAN", wan, open, "lan address 192.168.77.1/24", false, "203.0.113.20"},
		{"the admin's subnet is behind a tunnel", wan, open, "passthrough ipsec subnet 198.51.100.0/24 via 192.168.1.20", true, "203.0.113.20"},
		{"another subnet is", wan, open, "passthrough ipsec subnet 198.51.101.0/24 via 192.168.1.20", false, "203.0.113.20"},
		{"a LAN on the WAN's subnet", wan, open, "lan address 203.0.113.99/24", true, "203.0.113.99"},
	} {
		old := settings.Default()
		apply(t, old, c.old)
		candidate := old.Clone()
		apply(t, candidate, c.new)
		was, will := planned(t, old, f), planned(t, candidate, f)
		if cut, address := CutsSession(was, will, f, c.conn); cut != c.cut || address != c.address {
			t.Errorf("%s: %v %s, want %v %s", c.name, cut, address, c.cut, c.address)
		}
	}
}

func apply(t *testing.T, s *settings.Settings, commands string) {
	t.Helper()
	for c := range strings.SplitSeq(commands, ";") {
		if c = strings.TrimSpace(c); c == "" {
			continue
		}
		if err := settings.Set(s, strings.Fields(c)); err != nil {
			t.Fatal(c, err)
		}
	}
}

func planned(t *testing.T, s *settings.Settings, f facts.Facts) *Desired {
	t.Helper()
	d, problems := For(testBoard, s, f, Options{})
	if problems != nil {
		t.Fatal(problems)
	}
	return d
}
