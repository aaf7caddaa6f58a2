package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Group is a name for several devices.
type Group struct {
	Members []string `json:"members,omitempty" schema:"format=members,count=128" help:"its devices; none = nobody"`
}

// Members are words with the members of a group in the place of its name.
func (s *Settings) Members(words []string) []string {
	if !slices.ContainsFunc(words, func(w string) bool { return s.isGroup(w) }) {
		return words
	}
	var out []string
	for _, w := range words {
		if s.isGroup(w) {
			out = append(out, s.LAN.Groups[w].Members...)
		} else {
			out = append(out, w)
		}
	}
	return out
}

// isGroup tells whether a word of a list names a group: hosts come first, and
// a group of the same name is a problem.
func (s *Settings) isGroup(w string) bool {
	_, group := s.LAN.Groups[w]
	_, host := s.LAN.Hosts[w]
	return group && !host
}

// ServerNames are the DNS names among the servers of all protocols, in order,
// each once.
func (p *Passthrough) ServerNames() []string {
	var names []string
	for _, x := range p.Protocols() {
		for _, w := range x.Servers {
			if IsName(w) {
				names = append(names, w)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// IsName tells whether a word of a list of servers is a DNS name, and no
// address or prefix.
func IsName(word string) bool {
	_, err := netip.ParseAddr(word)
	return err != nil && !strings.Contains(word, "/")
}

// normalName writes a DNS name in lower case and without the dot at its end,
// so that two names never differ in these.
func normalName(s string) string {
	if !IsName(s) {
		return s
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// checkServer tells what is wrong with an end on the Internet. A name has two
// labels or more: there is no server whose name is a top-level domain.
func checkServer(s string) error {
	if strings.Contains(s, "/") {
		return checkPrefix(s)
	}
	switch {
	case !isHost(s) || s != normalName(s) || IsName(s) && !strings.Contains(s, "."):
		return errors.New("neither an IPv4 address or prefix nor a DNS name")
	case strings.HasSuffix(s, ".lan"):
		return errors.New("a name of the LAN, and servers are on the Internet's side")
	}
	return nil
}

// checkGroups finds what is wrong with groups as a whole.
func checkGroups(c *check) {
	for _, name := range sortedKeys(c.s.LAN.Groups) {
		path := "lan groups " + name
		if _, host := c.s.LAN.Hosts[name]; host {
			c.addf(path, name, "this is a name of lan hosts", "a name that no device has")
		}
		if name == "any" || name == "none" {
			c.addf(path, name, "in a list this has another meaning", "another name")
		}
		c.devices(path+" members", c.s.LAN.Groups[name].Members, false)
	}
}

// devices checks that the words of a list name devices of the LAN, or groups
// of them.
func (c *check) devices(path string, words []string, groups bool) {
	lan := c.s.LAN.Address
	for _, w := range words {
		if x, err := netip.ParsePrefix(w); err == nil {
			if lan.IsValid() && x.Addr().Is4() && (x.Bits() < lan.Bits() || !lan.Contains(x.Addr())) {
				c.addf(path, w, "not a part of the LAN", "a prefix in "+lan.Masked().String())
			}
			continue
		}
		h, host := c.s.LAN.Hosts[w]
		switch {
		case host && !h.Address.IsValid() && !c.s.LAN.DHCP.Enabled:
			c.addf(path, w, "nobody knows its address while lan dhcp is off", "a device with one: set lan hosts "+w+" address "+orAddress(lan))
		case host:
		case groups && c.s.isGroup(w):
		case isLabel(w) && groups && len(c.s.LAN.Groups) > 0:
			c.addf(path, w, "no device or group of that name", lanRange(lan)+"; "+c.names()+"; or a name of lan groups: "+some(sortedKeys(c.s.LAN.Groups)))
		default:
			c.device(path, w)
		}
	}
}

// names tells which names of lan hosts there are.
func (c *check) names() string {
	if len(c.s.LAN.Hosts) == 0 {
		return "or a name of lan hosts: no names are set"
	}
	return "or a name of lan hosts: " + some(sortedKeys(c.s.LAN.Hosts))
}

// some are the first of many names.
func some(names []string) string { return strings.Join(names[:min(len(names), 10)], ", ") }

// orAddress is an address of the LAN as an example.
func orAddress(lan netip.Prefix) string {
	if !lan.IsValid() || !lan.Addr().Is4() {
		return "ADDRESS"
	}
	a := Nth(lan, 10)
	if a == lan.Addr() {
		a = a.Next()
	}
	return a.String()
}

// groupsInUse tells that a group which was taken away is still in a list.
func groupsInUse(old, new *Settings) error {
	for _, name := range sortedKeys(old.LAN.Groups) {
		if _, there := new.LAN.Groups[name]; there || !old.isGroup(name) {
			continue
		}
		var uses []string
		new.deviceLists(func(path string, words []string) {
			if slices.Contains(words, name) {
				uses = append(uses, path)
			}
		})
		if len(uses) > 0 {
			return fmt.Errorf("lan groups %s is in use: %s. Take it out of there first", name, strings.Join(uses, ", "))
		}
	}
	return nil
}

// deviceLists calls fn with each list that groups may be in, in schema order.
func (s *Settings) deviceLists(fn func(path string, words []string)) {
	var walk func(*Node, reflect.Value, string)
	walk = func(n *Node, v reflect.Value, path string) {
		switch {
		case n.Kind == List && n.format == "devices":
			fn(path, n.texts(v))
		case n.Kind == Area:
			for _, c := range n.Children {
				walk(c, v.Field(c.field), strings.TrimSpace(path+" "+c.Name))
			}
		}
	}
	walk(root(), reflect.ValueOf(s).Elem(), "")
}
