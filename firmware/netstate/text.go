package netstate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Sort puts links, addresses, routes and rules in a fixed order; sysctls keep theirs.
func (s *State) Sort() {
	slices.SortFunc(s.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Addrs, func(a, b Addr) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Prefix.Addr().Compare(b.Prefix.Addr()),
			cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	slices.SortFunc(s.Routes, func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.table(), b.table()), a.Dst.Addr().Compare(b.Dst.Addr()),
			cmp.Compare(a.Dst.Bits(), b.Dst.Bits()), cmp.Compare(a.Metric, b.Metric),
			a.Via.Compare(b.Via), cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Protocol, b.Protocol))
	})
	slices.SortFunc(s.Rules, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Iif, b.Iif))
	})
}

// Equal tells whether a and b describe the same state; Why, Index and Carrier
// do not count, nor does the order.
func Equal(a, b State) bool { return a.bare() == b.bare() }

// Same tells whether a and b are alike in everything, the order included.
func Same(a, b State) bool {
	return slices.Equal(a.Links, b.Links) && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Routes, b.Routes) &&
		slices.Equal(a.Rules, b.Rules) && slices.Equal(a.Sysctls, b.Sysctls)
}

// bare is the text without reasons, for comparing.
func (s State) bare() string {
	c := s.Clone()
	c.Sort()
	slices.SortStableFunc(c.Sysctls, func(a, b Sysctl) int { return cmp.Compare(a.Key, b.Key) })
	var b strings.Builder
	for _, l := range c.Links {
		b.WriteString(l.Text() + "\n")
	}
	for _, a := range c.Addrs {
		b.WriteString(a.Text() + "\n")
	}
	for _, r := range c.Routes {
		b.WriteString(r.Text() + "\n")
	}
	for _, r := range c.Rules {
		b.WriteString(r.Text() + "\n")
	}
	for _, v := range c.Sysctls {
		b.WriteString(v.Text() + "\n")
	}
	return b.String()
}

// Text is the state as an admin reads it, one object a line, each with the
// setting it comes from.
func (s State) Text() string {
	c := s.Clone()
	c.Sort()
	var b strings.Builder
	line := func(text, why string) {
		b.WriteString(text)
		if why != "" {
			fmt.Fprintf(&b, "  # %s", why)
		}
		b.WriteByte('\n')
	}
	for _, l := range c.Links {
		line(l.Text(), l.Why)
	}
	for _, a := range c.Addrs {
		line(a.Text(), a.Why)
	}
	for _, r := range c.Routes {
		line(r.Text(), r.Why)
	}
	for _, r := range c.Rules {
		line(r.Text(), r.Why)
	}
	for _, v := range c.Sysctls {
		line(v.Text(), v.Why)
	}
	return b.String()
}

// Text is e.g. "link eth0 physical master br-lan up mtu 1500".
func (l Link) Text() string {
	s := "link " + l.Name + " " + string(l.Kind)
	if l.Master != "" {
		s += " master " + l.Master
	}
	if l.Up {
		s += " up"
	} else {
		s += " down"
	}
	if l.MTU != 0 {
		s += fmt.Sprint(" mtu ", l.MTU)
	}
	if l.MAC != "" {
		s += " mac " + l.MAC
	}
	return s
}

// Text is e.g. "addr 192.168.1.1/24 dev br-lan".
func (a Addr) Text() string { return "addr " + a.Prefix.String() + " dev " + a.Link }

// Text is e.g. "route default via 203.0.113.1 dev eth1 metric 20".
func (r Route) Text() string {
	s := "route " + r.Dst.String()
	if r.Dst.Bits() == 0 {
		s = "route default"
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	s += " dev " + r.Dev
	if r.table() != MainTable {
		s += fmt.Sprint(" table ", r.table())
	}
	if r.Metric != 0 {
		s += fmt.Sprint(" metric ", r.Metric)
	}
	if r.MTU != 0 {
		s += fmt.Sprint(" mtu ", r.MTU)
	}
	if r.Protocol != 0 && r.Protocol != RouteProtocol {
		s += fmt.Sprint(" proto ", r.Protocol)
	}
	return s
}

// Text is e.g. "rule iif br-lan ipproto 115 prohibit".
func (r Rule) Text() string { return fmt.Sprintf("rule iif %s ipproto %d prohibit", r.Iif, r.Protocol) }

// Text is e.g. "sysctl net/ipv4/ip_forward = 1".
func (c Sysctl) Text() string { return "sysctl " + c.Key + " = " + c.Value }
