package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/ground"
)

// Group measures packets on their way.
func Group() bench.Group {
	return bench.Group{
		Name: "forwarding", Ground: bench.QEMUMIPS,
		Rows: []string{"repeat", "nat-offload", "nat-offload-vlan", "nat-rules", "new-1000", "new-10000", "esp-out", "esp-in", "udp-engine"},
		Run:  run,
	}
}

const unit = "insn/packet"

// row is one with a peer: less is better.
func row(id, what string, value, peer float64, peerWhat string, bar, goal float64, note string) bench.Row {
	r := bench.Row{ID: id, What: what, Ground: bench.QEMUMIPS, Unit: unit, Value: value, Peer: peer, PeerWhat: peerWhat, Ratio: peer / value,
		Bar: bench.Limit{Min: bar}, Note: note}
	if goal != 0 {
		r.Goal = bench.Limit{Min: goal}
	}
	return r
}

func run(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
	files, err := ground.Build(env.Root, env.Out, env.Log)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, env, files, "forward", false)
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	rows, err := l.rows(env)
	if err != nil || !env.Wants("nat-offload-vlan") {
		return rows, err
	}
	l.Stop()
	v, err := open(ctx, env, files, "forward-vlan", true)
	if err != nil {
		return rows, err
	}
	defer v.Stop()
	vlan, err := v.offload("nat-offload-vlan", "the same with the WAN on a VLAN", 0.95, 1.1)
	return append(rows, vlan...), err
}

func (l *lab) rows(env *bench.Env) (rows []bench.Row, err error) {
	established := func() ([]bench.Row, error) {
		return l.offload("nat-offload", "established NAT, default settings, LAN on a bridge", 1, 1.15)
	}
	for _, m := range []struct {
		ids     []string
		measure func() ([]bench.Row, error)
	}{
		{[]string{"esp-out", "esp-in", "udp-engine"}, l.tunnels},
		{[]string{"nat-offload", "repeat"}, established},
		{[]string{"nat-rules"}, l.rules},
		{[]string{"new-1000", "new-10000"}, l.newFlows},
	} {
		if !slices.ContainsFunc(m.ids, env.Wants) {
			continue
		}
		more, err := m.measure()
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// offload: a flow in the flowtable against forwarding without any rule; and how well one
// measurement repeats.
func (l *lab) offload(id, what string, bar, goal float64) ([]bench.Row, error) {
	if err := l.commit(func(*settings.Settings) {}); err != nil {
		return nil, err
	}
	var all []float64
	_, err := l.quiet(func() (float64, error) {
		for range 5 {
			v, err := l.established(outward, true)
			if err != nil {
				return 0, err
			}
			all = append(all, v)
		}
		return 0, nil
	})
	if err != nil {
		return nil, err
	}
	median, percent := spread(all)
	plain, err := l.peer("", func() (float64, error) { return l.cost(outward, packets) })
	if err != nil {
		return nil, err
	}
	rows := []bench.Row{row(id, what, median, plain, "plain forwarding", bar, goal, fmt.Sprintf("the generator's own %.0f are not in it", l.generator))}
	if id == "nat-offload" {
		rows = append(rows, bench.Row{ID: "repeat", What: "five runs of one measurement, widest from the median", Ground: bench.QEMUMIPS,
			Value: percent, Unit: "%", Bar: bench.Limit{Max: 1.5}})
	}
	return rows, nil
}

// rules: a flow that goes through all rules, packet by packet, against the least NAT there can be.
func (l *lab) rules() ([]bench.Row, error) {
	if err := l.commit(func(s *settings.Settings) { s.Firewall.Offload = false }); err != nil {
		return nil, err
	}
	ours, err := l.quiet(func() (float64, error) { return l.established(outward, false) })
	if err != nil {
		return nil, err
	}
	floor, err := l.peer(wanPort, func() (float64, error) { return l.established(outward, false) })
	if err != nil {
		return nil, err
	}
	return []bench.Row{row("nat-rules", "a flow that is not offloaded, whole policy", ours, floor, "one masquerade rule", 0.90, 0.95, "")}, nil
}

// newFlows: every packet begins a flow, of one of fifty devices.
func (l *lab) newFlows() ([]bench.Row, error) {
	flows := traffic{In: lanPort, Out: wanPort, Src: "192.168.1.100-192.168.1.149", Dst: server, SrcPort: "10000-59999", DstPort: "9"}
	begin := func(forwards int) (float64, error) {
		if err := l.commit(func(s *settings.Settings) { addForwards(s, forwards) }); err != nil {
			return 0, err
		}
		return l.quiet(func() (float64, error) {
			if err := l.do("forget", nil, nil); err != nil {
				return 0, err
			}
			v, err := l.cost(flows, newPackets)
			return v, errors.Join(err, l.do("forget", nil, nil))
		})
	}
	none, err := begin(0)
	if err != nil {
		return nil, err
	}
	var rows []bench.Row
	for _, c := range []struct {
		n   int
		id  string
		bar float64
	}{{1000, "new-1000", 0.97}, {10000, "new-10000", 0.95}} {
		v, err := begin(c.n)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row(c.id, fmt.Sprintf("new connections with %d forwards", c.n), v, none, "with none", c.bar, 0.99, ""))
	}
	return rows, nil
}

// tunnels: ESP through the engine against UDP through masquerade, both without the flowtable, and
// what the engine's rules cost the UDP.
func (l *lab) tunnels() ([]bench.Row, error) {
	if err := l.commit(func(s *settings.Settings) { s.Firewall.Offload = false }); err != nil {
		return nil, err
	}
	var udp, esp [2]float64 // out, in
	both := func(v *[2]float64, protocol int, prepare func() error) error {
		for i, t := range []traffic{outward, inward} {
			if err := prepare(); err != nil {
				return err
			}
			if err := l.do("protocol", map[string]any{"Dev": t.In, "Protocol": protocol}, nil); err != nil {
				return err
			}
			var err error
			if v[i], err = l.cost(t, packets); err != nil {
				return fmt.Errorf("IP protocol %d: %w", protocol, err)
			}
			if err := l.do("protocol", map[string]any{"Dev": t.In, "Protocol": 0}, nil); err != nil {
				return err
			}
		}
		return nil
	}
	answered := func() error {
		if err := l.do("forget", nil, nil); err != nil {
			return err
		}
		return l.open(wanPort, false)
	}
	_, err := l.quiet(func() (float64, error) {
		if err := both(&udp, unix.IPPROTO_UDP, answered); err != nil {
			return 0, err
		}
		// The device's ESP goes first, so the server's has an owner.
		return 0, both(&esp, unix.IPPROTO_ESP, func() error { return nil })
	})
	if err != nil {
		return nil, err
	}
	with, err := l.quiet(func() (float64, error) { return l.established(outward, false) })
	if err != nil {
		return nil, err
	}
	without, err := l.quiet(func() (float64, error) {
		if err := l.do("delete-table", map[string]string{"Name": "culvert"}, nil); err != nil {
			return 0, err
		}
		if err := answered(); err != nil {
			return 0, err
		}
		return l.cost(outward, packets)
	})
	if err != nil {
		return nil, err
	}
	const peer = "UDP masquerade"
	return []bench.Row{
		row("esp-out", "ESP to the server, through the engine, no flowtable", esp[0], udp[0], peer, 0.92, 0.98, ""),
		row("esp-in", "ESP from the server to its only device", esp[1], udp[1], peer, 0.85, 0.92, ""),
		row("udp-engine", "UDP masquerade with the engine's rules", with, without, "without them", 0.98, 1, ""),
	}, nil
}

// addForwards adds n port forwards to devices of the LAN.
func addForwards(s *settings.Settings, n int) {
	const firstPort, devices = 20000, 250
	s.Firewall.Forwards = map[string]settings.Forward{}
	for i := range n {
		s.Firewall.Forwards[fmt.Sprintf("f%d", i)] = settings.Forward{Enabled: true, Protocol: settings.TCP, Port: firstPort + i,
			To: netip.AddrFrom4([4]byte{192, 168, 1, byte(2 + i%devices)})}
	}
}
