package reconcile

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// planned is what plan wants of a two-port router.
func planned(t *testing.T, f facts.Facts, change func(*settings.Settings)) Target {
	t.Helper()
	s := settings.Default()
	s.Firewall.Offload = hasFlowtable()
	if change != nil {
		change(s)
	}
	d, problems := plan.For(plan.Board{LANPorts: []string{"eth0", "eth2"}, WANPort: "eth1", RAM: 64}, s, f, plan.Options{})
	if problems != nil {
		t.Fatal(problems)
	}
	return Target{Net: d.Net, Rules: d.Rules}
}

// hasFlowtable asks the kernel, in a table of its own.
func hasFlowtable() bool {
	defer exec.Command("nft", "delete", "table", "inet", "probe").Run()
	return exec.Command("nft", "table inet probe { flowtable f { hook ingress priority 0; } ; }").Run() == nil
}

func lease(addr, gateway string) facts.Facts {
	return facts.Facts{
		WAN:   &facts.WANLease{Address: netip.MustParsePrefix(addr), Gateway: netip.MustParseAddr(gateway)},
		Links: map[string]facts.Link{"eth0": {MAC: "02:00:00:00:00:01"}},
	}
}

// TestRouter brings the real kernel through a router's life by what plan
// wants, and asks ip what it sees.
func TestRouter(t *testing.T) {
	k := realKernel(t)
	nstest.Require(t, "nft")
	was := planned(t, facts.Facts{}, nil)
	for _, c := range []struct {
		name   string
		want   Target
		addrs  string
		routes string
	}{
		{"no lease", was, "192.168.1.1/24", ""},
		{"a lease", planned(t, lease("203.0.113.2/24", "203.0.113.1"), nil), "192.168.1.1/24 203.0.113.2/24", "default via 203.0.113.1 dev eth1 metric 20"},
		{"another address of the subnet", planned(t, lease("203.0.113.3/24", "203.0.113.1"), nil), "192.168.1.1/24 203.0.113.3/24", "default via 203.0.113.1 dev eth1 metric 20"},
		{"another gateway", planned(t, lease("203.0.113.3/24", "203.0.113.254"), nil), "192.168.1.1/24 203.0.113.3/24", "default via 203.0.113.254 dev eth1 metric 20"},
		{"point to point", planned(t, lease("100.64.0.9/32", "100.64.0.1"), nil), "192.168.1.1/24 100.64.0.9/32", "default via 100.64.0.1 dev eth1 metric 20 onlink"},
		{"the LAN's own subnet", planned(t, lease("192.168.1.9/24", "192.168.1.254"), nil), "192.168.77.1/24 192.168.1.9/24", "default via 192.168.1.254 dev eth1 metric 20"},
		{"no lease any more", planned(t, facts.Facts{}, func(s *settings.Settings) { s.LAN.Address = netip.MustParsePrefix("10.0.0.1/8") }), "10.0.0.1/8", ""},
	} {
		if _, err := k.Converge(c.want, was.Rules); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		was = c.want
		res, err := k.Converge(c.want, was.Rules)
		if err != nil || len(res.Steps) > 0 {
			t.Errorf("%s, the second time: %v, %v", c.name, res.Steps, err)
		}
		if len(res.Missing) > 0 || len(res.Foreign) > 0 {
			t.Errorf("%s: missing %v, foreign %v", c.name, res.Missing, res.Foreign)
		}
		var addrs []string
		for _, dev := range []string{"br-lan", "eth1"} {
			for l := range strings.Lines(ip(t, "-4", "-o", "addr", "show", "dev", dev)) {
				addrs = append(addrs, strings.Fields(l)[3])
			}
		}
		if got := strings.Join(addrs, " "); got != c.addrs {
			t.Errorf("%s: addresses %s, want %s", c.name, got, c.addrs)
		}
		if got := strings.TrimSpace(ip(t, "-4", "route", "show", "proto", "67")); strings.Join(strings.Fields(got), " ") != c.routes {
			t.Errorf("%s: routes %q, want %q", c.name, got, c.routes)
		}
	}
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}
