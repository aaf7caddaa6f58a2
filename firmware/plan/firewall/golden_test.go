package firewall_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestGoldens reads testdata/*.txtar: "commands" are those of the shell,
// "facts" is what was learnt; "nft" is the table and "problems" what is wrong.
// "then" are later commands, "later" is what is learnt then: "diff" is what
// they change in the table, "ended" which connections they end. "served" are the
// VPN servers as they stand.
func TestGoldens(t *testing.T) { golden.Run(t, produce) }

func produce(t *testing.T, files map[string]string) map[string]string {
	s := settings.Default()
	configure(t, s, files["commands"])
	in := input(t, s, files["facts"])
	table, problems := firewall.Ruleset(in)
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Error()+"\n")
	}
	got := map[string]string{"nft": table.Text(), "problems": strings.Join(lines, "")}
	var served strings.Builder
	for _, v := range firewall.Serving(s, table) {
		fmt.Fprintf(&served, "%s %s %s [%s] off: %q peers: %v\n", v.Name, v.Device, v.Address, strings.Join(v.Ports, ", "), v.Off, v.Peers)
	}
	got["served"] = served.String()
	if d := ruleset.Diff(table, table); len(d) > 0 {
		t.Errorf("a table differs from itself: %q", d)
	}
	then, commands := files["then"]
	learned, learns := files["later"]
	if commands || learns {
		s := s.Clone()
		configure(t, s, then)
		later := in
		if learns {
			later = input(t, s, learned)
		}
		later.Settings = s
		after, _ := firewall.Ruleset(later)
		got["diff"] = strings.Join(append(ruleset.Diff(after, table), ""), "\n")
		var ended strings.Builder
		for _, e := range append(firewall.Ended(in.Settings, s, in.Facts), passthrough.Outdated(s, in.Facts, later.Facts)...) {
			ended.WriteString(e.Text() + "\n")
		}
		got["ended"] = ended.String()
	}
	return got
}

func configure(t *testing.T, s *settings.Settings, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		words, err := settings.Split(strings.TrimSpace(line))
		if err == nil && len(words) > 0 {
			if words[0] == "delete" {
				err = settings.Delete(s, words[1:])
			} else {
				err = settings.Set(s, words[1:])
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(line), err)
		}
	}
}

// input is a router with a WAN address unless what is known says otherwise.
func input(t *testing.T, s *settings.Settings, known string) firewall.Input {
	t.Helper()
	f := struct {
		WAN     []netip.Addr
		Claimed bool
		Names   []facts.Name
		Leases  []facts.Lease
		Shared  []facts.Association
	}{WAN: []netip.Addr{netip.MustParseAddr("203.0.113.2")}, Claimed: true}
	if known != "" {
		if err := json.Unmarshal([]byte(known), &f); err != nil {
			t.Fatal(err)
		}
	}
	var wan netip.Prefix
	if len(f.WAN) > 0 {
		wan = netip.PrefixFrom(f.WAN[0], 24)
	}
	subnets, _ := passthrough.Subnets(s, s.LAN.Address, wan)
	return firewall.Input{LANDevice: "br-lan", WANDevice: "eth1", LAN: s.LAN.Address, WAN: f.WAN, Claimed: f.Claimed, Shared: f.Shared, Settings: s, Subnets: subnets,
		Facts: facts.Facts{Names: f.Names, Leases: f.Leases}}
}
