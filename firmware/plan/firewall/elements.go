package firewall

import (
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/facts"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// forwardElements gives the elements of the map of ports, in order, while all
// that is asked for can be carried out; false means that there is something to
// report (see forwardings). There may be ten thousand, so the elements share
// two long strings.
func forwardElements(in Input) ([]rs.Element, bool) {
	all := in.Settings.Firewall.Forwards
	b := builder{in: in, wanted: make([]wanted, 0, len(all)+len(all)/8)}
	for name, f := range all {
		if f.Enabled && !b.forward(name, f) {
			return nil, false
		}
	}
	for _, s := range in.Settings.Firewall.Servers() {
		a, _ := in.Settings.Device(s.Device)
		if !isDevice(in, a) {
			return nil, false
		}
		for _, p := range s.Ports {
			b.add(protocols(p.Protocol)[0], p.External, wanted{path: s.Path(), to: a.As4(), toPort: uint16(p.Port)})
		}
	}
	return b.elements()
}

// builder collects elements.
type builder struct {
	in     Input
	wanted []wanted
	names  int // bytes of all paths
}

// wanted is an element to be: what it is sorted by, and what it is made of.
type wanted struct {
	key    uint32 // protocol and port
	to     [4]byte
	toPort uint16
	name   string // of a forward, whose path it becomes
	path   string // of what is none
}

// forwardPath is how the path of a forward begins; its name follows.
const forwardPath = "firewall forward "

// forward adds the ports of a forward, false when it leads nowhere.
func (b *builder) forward(name string, f settings.Forward) bool {
	if !isDevice(b.in, f.To) {
		return false
	}
	w := wanted{name: name, to: f.To.As4(), toPort: uint16(f.ToPort)}
	if w.toPort == 0 {
		w.toPort = uint16(f.Port)
	}
	switch f.Protocol {
	case settings.TCP:
		b.add(rs.TCP, f.Port, w)
	case settings.UDP:
		b.add(rs.UDP, f.Port, w)
	default:
		b.add(rs.TCP, f.Port, w)
		b.add(rs.UDP, f.Port, w)
	}
	return true
}

func (b *builder) add(protocol uint8, port int, w wanted) {
	w.key = uint32(protocol)<<16 | uint32(uint16(port))
	b.wanted = append(b.wanted, w)
	b.names += len(forwardPath) + len(w.name)
}

// order is the elements by key, as their numbers; false when two have one key.
func (b *builder) order() ([]uint64, bool) {
	order := make([]uint64, len(b.wanted))
	for i := range b.wanted {
		order[i] = uint64(b.wanted[i].key)<<32 | uint64(i)
	}
	slices.Sort(order)
	for i := 1; i < len(order); i++ {
		if order[i]>>32 == order[i-1]>>32 {
			return nil, false
		}
	}
	return order, true
}

func (b *builder) elements() ([]rs.Element, bool) {
	order, ok := b.order()
	if !ok {
		return nil, false
	}
	const width = 8 // of a key and of its data
	var keys, paths strings.Builder
	keys.Grow(2 * width * len(order))
	paths.Grow(b.names)
	for _, o := range order {
		w := &b.wanted[uint32(o)]
		keys.Write([]byte{byte(w.key >> 16), 0, 0, 0, byte(w.key >> 8), byte(w.key), 0, 0,
			w.to[0], w.to[1], w.to[2], w.to[3], byte(w.toPort >> 8), byte(w.toPort), 0, 0})
		if w.path == "" {
			paths.WriteString(forwardPath)
			paths.WriteString(w.name)
		}
	}
	allKeys, allPaths := rs.Key(keys.String()), paths.String()
	out := make([]rs.Element, len(order))
	for i, o := range order {
		w, e := &b.wanted[uint32(o)], &out[i]
		e.Key, e.Data, allKeys = allKeys[:width], allKeys[width:2*width], allKeys[2*width:]
		if e.Why = w.path; w.path == "" {
			n := len(forwardPath) + len(w.name)
			e.Why, allPaths = allPaths[:n], allPaths[n:]
		}
	}
	return out, true
}

// Same tells whether in and o give the same rules, and whether they do but for
// the port forwards.
func Same(in, o Input) (all, butForwards bool) {
	butForwards = in.LANDevice == o.LANDevice && in.WANDevice == o.WANDevice && in.LAN == o.LAN && slices.Equal(in.WAN, o.WAN) &&
		in.Claimed == o.Claimed && in.RAM == o.RAM && slices.Equal(in.Subnets, o.Subnets) && in.Facts.Equal(o.Facts) &&
		sameShared(in, o) && settings.Same(in.Settings, o.Settings, "lan", "wan", "passthrough", "ssh") &&
		in.Settings.Firewall.SameButForwards(o.Settings.Firewall)
	return butForwards && settings.SameForwards(in.Settings.Firewall.Forwards, o.Settings.Firewall.Forwards), butForwards
}

// WithForwards is the table t, made of settings that Same found to differ in
// the port forwards alone, with those of in; and what can't be carried out.
// Everything else is shared with t.
func WithForwards(t *rs.Table, in Input) (*rs.Table, []settings.Problem) {
	forwards, problems := forwardMaps(in)
	c := *t
	c.Sets = slices.Clone(t.Sets)
	for i := range c.Sets {
		if c.Sets[i].Name == forwardsMap {
			c.Sets[i].Elements = forwards[0].Elements
		}
	}
	return &c, problems
}

func sameShared(in, o Input) bool {
	return slices.EqualFunc(in.Shared, o.Shared, func(a, b facts.Association) bool {
		return a.Server == b.Server && slices.Equal(a.Devices, b.Devices)
	})
}
