package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/settings"
)

var testBoard = Board{LANPorts: []string{"eth0"}, WANPort: "eth1", RAM: 64}

// TestGoldens plans each testdata/*.txtar: `set` holds set commands on top of
// the defaults, `facts` what was learnt, `by-hand` means that a person chose
// the LAN address, `unsettled` and `ports-down` are the options of that name,
// and `plan` is the outcome.
func TestGoldens(t *testing.T) {
	golden.Run(t, func(t *testing.T, in map[string]string) map[string]string {
		s, f, o := settings.Default(), facts.Facts{}, Options{}
		for name, text := range in {
			switch name {
			case "set":
				for line := range strings.Lines(text) {
					if err := settings.Set(s, strings.Fields(line)); err != nil {
						t.Fatalf("%s: %v", line, err)
					}
				}
			case "facts":
				if err := json.Unmarshal([]byte(text), &f); err != nil {
					t.Fatal(err)
				}
			case "by-hand":
				o.LANByHand = true
			case "unsettled":
				o.LANUnsettled = true
			case "ports-down":
				o.LANPortsDown = true
			case "plan":
			default:
				t.Fatalf("unknown part %s", name)
			}
		}
		return map[string]string{"plan": text(For(testBoard, s, f, o))}
	})
}

// text is a plan as an admin reads it; the ruleset has goldens of its own.
func text(d *Desired, problems settings.Problems) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if d == nil {
		for _, p := range problems {
			line("invalid: %s", p.Error())
		}
		return b.String()
	}
	for _, p := range d.Problems {
		line("problem: %s", p)
	}
	for l := range strings.Lines(d.Net.Text()) {
		if !strings.HasPrefix(l, "sysctl ") {
			b.WriteString(l)
		}
	}
	if c := d.Client; c != nil {
		line("dhcp client on %s as %s", c.Device, c.Hostname)
	}
	if s := d.DHCP; s != nil {
		line("dhcp server on %s %s: %s to %s for %s, dns %v, domain %s", s.Device, s.Address, s.Start, s.End, s.Lease, s.DNS, s.Domain)
		if s.Short != 0 {
			line("  for now: %s", s.Short)
		}
		for _, h := range s.Hosts {
			line("  %s is %s %s", h.MAC, h.Addr, h.Name)
		}
		for _, r := range s.Routes {
			line("  route %s via %s", r.Dst, r.Via)
		}
	}
	line("dns asks %v, keeps %d answers", d.DNS.Upstreams, d.DNS.CacheSize)
	for _, n := range d.DNS.Names {
		line("  %s.lan is %s", n.Name, n.Addr)
	}
	line("ssh port %d, on the WAN: %v", d.SSH.Port, d.SSH.OnWAN)
	line("wan address %v, held: %v", d.WAN.Address, d.WAN.Held)
	return b.String()
}

func TestSysctls(t *testing.T) {
	d, problems := For(testBoard, settings.Default(), facts.Facts{}, Options{})
	if problems != nil {
		t.Fatal(problems)
	}
	var b strings.Builder
	for _, c := range d.Net.Sysctls {
		b.WriteString(c.Text() + "  # " + c.Why + "\n")
	}
	const file = "testdata/sysctls.txt"
	if *golden.Update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestConntrackFollowsMemory(t *testing.T) {
	for ram, want := range map[int]string{0: "8192", 64: "8192", 100: "8192", 128: "16384", 512: "65536", 4096: "131072"} {
		b := testBoard
		b.RAM = ram
		for _, c := range sysctls(b) {
			if c.Key == "net/netfilter/nf_conntrack_max" && c.Value != want {
				t.Errorf("%d MB: %s, want %s", ram, c.Value, want)
			}
		}
	}
}

// TestHeldText is the sentence that the login shows, to the letter.
func TestHeldText(t *testing.T) {
	lease := func(p string) facts.Facts {
		return facts.Facts{WAN: &facts.WANLease{Address: netip.MustParsePrefix(p)}}
	}
	for _, c := range []struct {
		lan, wan, moved string
		byHand          bool
		want            string
		hold            bool
		text            string
	}{
		{wan: "192.168.1.50/24", want: "192.168.77.1/24"},
		{wan: "192.168.1.50/24", byHand: true, want: "192.168.1.1/24", hold: true,
			text: "WAN offers 192.168.1.0/24, the same as your LAN, so the Internet is off. Fix: set lan address 192.168.77.1/24; commit confirm 2m"},
		{lan: "10.1.1.1/24", wan: "10.0.0.9/8", want: "10.1.1.1/24", hold: true,
			text: "WAN offers 10.0.0.0/8, which overlaps your LAN 10.1.1.0/24, so the Internet is off. Fix: set lan address 192.168.77.1/24; commit confirm 2m"},
		{wan: "192.168.77.9/24", moved: "192.168.77.1/24", want: "192.168.78.1/24"},
		{wan: "203.0.113.9/24", moved: "192.168.77.1/24", want: "192.168.77.1/24"},
		{lan: "10.1.1.1/24", wan: "203.0.113.9/24", moved: "192.168.77.1/24", want: "10.1.1.1/24"},
		{wan: "192.168.0.9/16", want: "10.77.0.1/24"},
		{wan: "203.0.113.9/24", want: "192.168.1.1/24"},
	} {
		s := settings.Default()
		if c.lan != "" {
			s.LAN.Address = netip.MustParsePrefix(c.lan)
		}
		f := lease(c.wan)
		if c.moved != "" {
			f.LANMoved = netip.MustParsePrefix(c.moved)
		}
		lan, hold, text := EffectiveLAN(s, f, c.byHand)
		if lan.String() != c.want || hold != c.hold || text != c.text {
			t.Errorf("%+v: %v %v %q", c, lan, hold, text)
		}
	}
}

func TestInForce(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := &facts.WANLease{Address: netip.MustParsePrefix("203.0.113.2/24"), Expires: now.Add(time.Minute)}
	have := netstate.State{Addrs: []netstate.Addr{{Link: "eth1", Prefix: l.Address}}}
	if !InForce(testBoard, have, l, now) {
		t.Error("a running lease is not in force")
	}
	if InForce(testBoard, have, l, now.Add(time.Hour)) {
		t.Error("an expired lease is in force")
	}
	if InForce(testBoard, netstate.State{}, l, now) || InForce(testBoard, have, nil, now) {
		t.Error("a lease is in force after a reboot")
	}
}

// TestMovedLists: lists of devices go with a LAN that moves, addresses and
// prefixes alike; names and servers stay.
func TestMovedLists(t *testing.T) {
	s := settings.Default()
	for _, words := range []string{
		"lan groups kids members 192.168.1.11 192.168.1.32/28 nas",
		"passthrough pptp devices 192.168.1.10 192.168.1.64/26 nas",
		"passthrough pptp servers 192.168.1.10",
	} {
		if err := settings.Set(s, strings.Fields(words)); err != nil {
			t.Fatal(err)
		}
	}
	moved := InEffect(s, facts.Facts{LANMoved: netip.MustParsePrefix("192.168.77.1/24")}, Options{})
	p := moved.Passthrough.PPTP
	if got, want := fmt.Sprint(p.Devices, p.Servers, moved.LAN.Groups), "[192.168.77.10 192.168.77.64/26 nas] [192.168.1.10] map[kids:{[192.168.77.11 192.168.77.32/28 nas]}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s.Passthrough.PPTP.Devices[0] != "192.168.1.10" || s.LAN.Groups["kids"].Members[0] != "192.168.1.11" {
		t.Error("the settings themselves changed")
	}
}
