package passthrough

import (
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
)

func TestEnded(t *testing.T) {
	all := settings.Default().Passthrough
	off := func(edit func(*settings.Passthrough)) settings.Passthrough { p := all; edit(&p); return p }
	for _, c := range []struct {
		name     string
		old, new settings.Passthrough
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
		for _, s := range Ended(c.old, c.new) {
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
		{"a client's connection", pptp.Match(6, 40000, 1723, 1723, false), true},
		{"to a LAN server by another port", pptp.Match(6, 40000, 4723, 1723, true), true},
		{"picked up from the server's side", pptp.Match(6, 1723, 40000, 40000, false), true},
		{"to a LAN server that is none", pptp.Match(6, 40000, 1723, 80, true), false},
		{"another protocol", pptp.Match(17, 40000, 1723, 1723, false), false},
		{"another port", pptp.Match(6, 40000, 443, 443, false), false},
		{"any GRE", gre.Match(47, 0, 0, 0, false), true},
		{"a forward", forward.Match(6, 40000, 4723, 1723, true), true},
		{"the same port, no forward", forward.Match(6, 40000, 4723, 4723, false), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", c.name, c.got)
		}
	}
}
