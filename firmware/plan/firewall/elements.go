package firewall

import (
	"slices"

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
			b.add(protocols(p.Protocol)[0], forwarding{path: s.Path(), port: p.External, to: a, toPort: p.Port})
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
	key uint32 // protocol and port
	forwarding
}

// forwardPath is how the path of a forward begins; its name follows.
const forwardPath = "firewall forward "

// forward adds the ports of a forward, false when it leads nowhere.
func (b *builder) forward(name string, f settings.Forward) bool {
	if !isDevice(b.in, f.To) {
		return false
	}
	w := forwarding{name: name, port: f.Port, to: f.To, toPort: f.ToPort}
	if w.toPort == 0 {
		w.toPort = f.Port
	}
	switch f.Protocol {
	case settings.TCP:
		b.add(rs.TCP, w)
	case settings.UDP:
		b.add(rs.UDP, w)
	default:
		b.add(rs.TCP, w)
		b.add(rs.UDP, w)
	}
	return true
}

func (b *builder) add(protocol uint8, f forwarding) {
	b.wanted = append(b.wanted, wanted{uint32(protocol)<<16 | uint32(f.port), f})
	b.names += len(forwardPath) + len(f.name)
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
	keys, paths := make([]byte, 0, 2*width*len(order)), make([]byte, 0, b.names)
	for _, o := range order {
		w := &b.wanted[uint32(o)]
		to := w.to.As4()
		keys = append(keys, byte(w.key>>16), 0, 0, 0, byte(w.port>>8), byte(w.port), 0, 0,
			to[0], to[1], to[2], to[3], byte(w.toPort>>8), byte(w.toPort), 0, 0)
		if w.path == "" {
			paths = append(append(paths, forwardPath...), w.name...)
		}
	}
	allKeys, allPaths := rs.Key(keys), string(paths)
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
