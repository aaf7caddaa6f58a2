package netstate

import (
	"net/netip"
	"testing"
)

func TestEqual(t *testing.T) {
	a := State{
		Links:   []Link{{Name: "eth1", Kind: Physical, Up: true, Index: 3, Carrier: true}, {Name: "br-lan", Kind: Bridge}},
		Addrs:   []Addr{{Link: "eth1", Prefix: netip.MustParsePrefix("192.0.2.1/24"), Why: "wan"}},
		Routes:  []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.9"), Dev: "eth1", Protocol: RouteProtocol}},
		Rules:   []Rule{{Iif: "eth1", Protocol: 115}, {Iif: "br-lan", Protocol: 115}},
		Sysctls: []Sysctl{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}},
	}
	b := a.Clone()
	b.Links[0], b.Links[1] = b.Links[1], b.Links[0]
	b.Links[1].Index, b.Links[1].Carrier, b.Addrs[0].Why = 0, false, ""
	b.Routes[0].Table, b.Routes[0].Onlink = MainTable, true
	if !Equal(a, b) {
		t.Errorf("not equal:\n%s%s", a.Text(), b.Text())
	}
	for name, change := range map[string]func(*State){
		"up":       func(s *State) { s.Links[0].Up = !s.Links[0].Up },
		"master":   func(s *State) { s.Links[0].Master = "br-lan" },
		"mtu":      func(s *State) { s.Links[0].MTU = 9 },
		"mac":      func(s *State) { s.Links[0].MAC = "02:00:00:00:00:01" },
		"bits":     func(s *State) { s.Addrs[0].Prefix = netip.MustParsePrefix("192.0.2.1/25") },
		"device":   func(s *State) { s.Addrs[0].Link = "br-lan" },
		"via":      func(s *State) { s.Routes[0].Via = netip.Addr{} },
		"metric":   func(s *State) { s.Routes[0].Metric = 1 },
		"table":    func(s *State) { s.Routes[0].Table = 1 },
		"protocol": func(s *State) { s.Routes[0].Protocol = 4 },
		"value":    func(s *State) { s.Sysctls[1].Value = "3" },
		"rule":     func(s *State) { s.Rules[0].Protocol = 116 },
		"fewer":    func(s *State) { s.Routes = nil },
	} {
		c := a.Clone()
		change(&c)
		if Equal(a, c) {
			t.Errorf("%s makes no difference", name)
		}
	}
}
