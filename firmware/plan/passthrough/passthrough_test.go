package passthrough

import (
	"net/netip"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func TestEnded(t *testing.T) {
	all := settings.Default()
	off := func(edit func(*settings.Passthrough)) *settings.Settings {
		s := all.Clone()
		edit(&s.Passthrough)
		return s
	}
	for _, c := range []struct {
		name     string
		old, new *settings.Settings
		want     string
	}{
		{"nothing", all, all, ""},
		{"pptp off", all, off(func(p *settings.Passthrough) { p.PPTP.Enabled = false }), "tcp 1723 (passthrough pptp off)|gre (passthrough pptp off)|"},
		{"pptp on: the helper is for new connections only", off(func(p *settings.Passthrough) { p.PPTP.Enabled = false }), all, "tcp 1723 (passthrough pptp on)|gre (passthrough pptp on)|"},
		{"ipsec on", off(func(p *settings.Passthrough) { p.IPsec.Enabled = false }), all, ""},
		{"ipsec off", all, off(func(p *settings.Passthrough) { p.IPsec.Enabled = false }),
			"udp 500 (passthrough ipsec off)|udp 4500 (passthrough ipsec off)|esp (passthrough ipsec off)|ah (passthrough ipsec off)|"},
		{"l2tp off", all, off(func(p *settings.Passthrough) { p.L2TP.Enabled = false }), "udp 1701 (passthrough l2tp off)|l2tp (passthrough l2tp off)|"},
	} {
		got := ""
		for _, s := range Ended(c.old, c.new, facts.Facts{}) {
			got += s.Text() + "|"
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestMatch(t *testing.T) {
	pptp, gre, forward := Selector{Protocol: 6, Port: 1723}, Selector{Protocol: 47}, Selector{Protocol: 6, Port: 4723, DNATed: true}
	for _, c := range []struct {
		name string
		got  bool
		want bool
	}{
		{"a client's connection", pptp.Picks(flow(6, 40000, 1723, 1723, false)), true},
		{"to a LAN server by another port", pptp.Picks(flow(6, 40000, 4723, 1723, true)), true},
		{"picked up from the server's side", pptp.Picks(flow(6, 1723, 40000, 40000, false)), true},
		{"to a LAN server that is none", pptp.Picks(flow(6, 40000, 1723, 80, true)), false},
		{"another protocol", pptp.Picks(flow(17, 40000, 1723, 1723, false)), false},
		{"another port", pptp.Picks(flow(6, 40000, 443, 443, false)), false},
		{"any GRE", gre.Picks(flow(47, 0, 0, 0, false)), true},
		{"a forward", forward.Picks(flow(6, 40000, 4723, 1723, true)), true},
		{"the same port, no forward", forward.Picks(flow(6, 40000, 4723, 4723, false)), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", c.name, c.got)
		}
	}
}

// TestNarrowed: of a protocol that is for others now, the tunnels between wrong
// ends are over, in either direction, and only they.
func TestNarrowed(t *testing.T) {
	old, new := settings.Default(), settings.Default()
	for _, words := range [][]string{
		{"lan", "hosts", "laptop", "mac", "02:00:00:00:00:09", "address", "192.168.1.20"},
		{"passthrough", "l2tp", "devices", "laptop", "192.168.1.64/26"},
		{"passthrough", "l2tp", "servers", "198.51.100.0/24"},
		{"passthrough", "pptp", "devices", "laptop"}, // the rules see each packet of it
	} {
		if err := settings.Set(new, words); err != nil {
			t.Fatal(err)
		}
	}
	list := Ended(old, new, facts.Facts{})
	if len(list) != 1 || list[0].Text() != "udp 1701 (passthrough l2tp is for others)" {
		t.Fatalf("ended: %v", list)
	}
	if again := Ended(new, new, facts.Facts{}); len(again) != 0 {
		t.Errorf("nothing changed, and these end: %v", again)
	}
	if wider := Ended(new, old, facts.Facts{}); len(wider) != 0 {
		t.Errorf("anybody may, and these end: %v", wider)
	}
	more := new.Clone()
	if err := settings.Set(more, []string{"passthrough", "l2tp", "devices", "192.168.1.0/24"}); err != nil {
		t.Fatal(err)
	}
	if wider := Ended(new, more, facts.Facts{}); len(wider) != 0 {
		t.Errorf("more may, and these end: %v", wider)
	}
	if back := Ended(more, new, facts.Facts{}); len(back) != 1 {
		t.Errorf("fewer may, and these end: %v", back)
	}
	a := netip.MustParseAddr
	for _, c := range []struct {
		name        string
		src, answer string
		dnated      bool
		ended       bool
	}{
		{"a named device", "192.168.1.20", "198.51.100.9", false, false},
		{"a device of the prefix", "192.168.1.127", "198.51.100.9", false, false},
		{"another device", "192.168.1.128", "198.51.100.9", false, true},
		{"another server", "192.168.1.20", "198.51.101.9", false, true},
		{"called from outside", "198.51.100.9", "192.168.1.20", true, false},
		{"another device called", "198.51.100.9", "192.168.1.21", true, true},
		{"called from elsewhere", "203.0.113.9", "192.168.1.20", true, true},
	} {
		f := Flow{Protocol: 17, Sport: 1701, Dport: 1701, ReplySport: 1701, DNATed: c.dnated, Src: a(c.src), ReplySrc: a(c.answer)}
		if got := list[0].Picks(f); got != c.ended {
			t.Errorf("%s: ended %v, want %v", c.name, got, c.ended)
		}
		f.Sport, f.Dport, f.ReplySport = 5000, 53, 53
		if list[0].Picks(f) {
			t.Errorf("%s: DNS is ended too", c.name)
		}
	}
}

func flow(protocol uint8, sport, dport, replySport uint16, dnated bool) Flow {
	return Flow{Protocol: protocol, Sport: sport, Dport: dport, ReplySport: replySport, DNATed: dnated}
}
