// Package forward measures what a packet costs on its way through the router, in instructions of
// the MIPS CPU that QEMU counts, beside plain forwarding and the least NAT there can be.
package forward

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/ground"
)

// What is where. The device's address is of the documentation's MAC range, the server of TEST-NET-2.
const (
	lanPort, wanPort = "eth0", "eth1"
	device           = "192.168.1.100"
	deviceMAC        = "02:00:00:00:00:64" // as the generator writes it
	wanAddress       = "203.0.113.2"
	server           = "198.51.100.9"
	frame            = 60 // bytes without the checksum: the least
)

// measureWait bounds one request, by the host's clock.
const measureWait = 5 * time.Minute

// Packets of one measurement: enough that what happens beside them is below a thousandth.
const (
	packets    = 20000
	newPackets = 6000 // each is a flow: conntrack must hold them
)

// traffic and cost are the guest's.
type (
	traffic struct {
		In, Out          string
		Packets, Size    int
		DstMAC           string
		Src, Dst         string
		SrcPort, DstPort string
		Options          []string
	}
	cost struct{ Packets, CPU, Arrived uint64 }
)

// lab is a machine with what was measured of itself.
type lab struct {
	*ground.Machine
	ctx       context.Context
	perNS     float64 // instructions a nanosecond of the guest's clock
	generator float64 // instructions of the generator itself a packet
}

// Settings are what the router starts with: the defaults, and an address from the Internet.
func Settings() *settings.Settings {
	s := settings.Default()
	s.WAN.Mode = settings.WANStatic
	s.WAN.Static.Address = netip.MustParsePrefix(wanAddress + "/24")
	s.WAN.Static.Gateway = netip.MustParseAddr("203.0.113.1")
	s.DNS.Upstreams = []netip.Addr{s.WAN.Static.Gateway}
	return s
}

// open boots a machine, and calibrates its clock and the generator.
func open(ctx context.Context, env *bench.Env, files *ground.Files, name string, vlan bool) (*lab, error) {
	env.Logf("booting %s", name)
	m, err := ground.Boot(ctx, ground.Options{Files: files, Settings: Settings(), Mem: 256, VLAN: vlan, Console: filepath.Join(env.Out, name+".console")})
	if err != nil {
		return nil, err
	}
	l := &lab{Machine: m, ctx: ctx}
	if err := l.prepare(); err != nil {
		m.Stop()
		return nil, err
	}
	env.Logf("%s: %.3f instructions a nanosecond of the guest, the generator costs %.0f instructions a packet", name, l.perNS, l.generator)
	return l, nil
}

func (l *lab) do(what string, params, result any) error {
	return l.Do(l.ctx, measureWait, what, params, result)
}

func (l *lab) prepare() error {
	var err error
	if l.perNS, err = l.Calibrate(l.ctx); err != nil {
		return err
	}
	if err := l.ready(); err != nil {
		return err
	}
	// Frames for somebody else end in ip_rcv, at once.
	stray := traffic{In: wanPort, DstMAC: "02:00:00:00:00:99", Src: server, Dst: wanAddress, SrcPort: "9", DstPort: "9"}
	l.generator, err = l.quiet(func() (float64, error) { return l.cost(stray, packets) })
	return err
}

// ready waits for the router, and lets it know the device.
func (l *lab) ready() error {
	if err := l.do("ready", map[string]int{"Seconds": 60}, nil); err != nil {
		return err
	}
	return l.do("neighbour", map[string]string{"Dev": "br-lan", "Address": device, "MAC": deviceMAC}, nil)
}

// Routes boots the router with mem MiB and sends through it.
func Routes(ctx context.Context, env *bench.Env, files *ground.Files, mem int) error {
	m, err := ground.Boot(ctx, ground.Options{Files: files, Settings: Settings(), Mem: mem, Console: filepath.Join(env.Out, fmt.Sprintf("routes-%d.console", mem))})
	if err != nil {
		return err
	}
	defer m.Stop()
	l := &lab{Machine: m, ctx: ctx}
	if err := l.ready(); err != nil {
		return err
	}
	_, err = l.established(outward, true)
	return err
}

// quiet measures while the product's processes stand still.
func (l *lab) quiet(f func() (float64, error)) (float64, error) {
	if err := l.do("pause", map[string]bool{"Stop": true}, nil); err != nil {
		return 0, err
	}
	v, err := f()
	if cerr := l.do("pause", map[string]bool{"Stop": false}, nil); err == nil {
		err = cerr
	}
	return v, err
}

// cost is instructions a packet, without those of the generator. Every packet must arrive.
func (l *lab) cost(t traffic, n int) (float64, error) {
	t.Packets, t.Size = n, frame
	var c cost
	if err := l.do("traffic", t, &c); err != nil {
		return 0, err
	}
	if c.Packets != uint64(n) || (t.Out != "" && c.Arrived != c.Packets) {
		return 0, fmt.Errorf("of %d packets %d were sent and %d arrived at %q: %+v", n, c.Packets, c.Arrived, t.Out, t)
	}
	return float64(c.CPU)*l.perNS/float64(n) - l.generator, nil
}

// outward is a UDP flow of the device to a server, inward what it answers.
var (
	outward = traffic{In: lanPort, Out: wanPort, Src: device, Dst: server, SrcPort: "40000", DstPort: "9"}
	inward  = traffic{In: wanPort, Out: lanPort, Src: server, Dst: wanAddress, SrcPort: "9", DstPort: "40000"}
)

// established makes the outward flow one that was answered, and measures t, which is of it.
func (l *lab) established(t traffic, offloaded bool) (float64, error) {
	if err := l.do("forget", nil, nil); err != nil {
		return 0, err
	}
	if err := l.open(t.Out, offloaded); err != nil {
		return 0, err
	}
	return l.cost(t, packets)
}

func (l *lab) open(out string, offloaded bool) error {
	first := outward
	if first.Out != out {
		first.Out = ""
	}
	if _, err := l.cost(first, 10); err != nil {
		return err
	}
	var n int
	of := map[string]string{"Address": device}
	if err := l.do("answered", of, &n); err != nil {
		return err
	}
	if _, err := l.cost(first, 10); err != nil {
		return err
	}
	var f struct{ All, Offloaded int }
	if err := l.do("flows", of, &f); err != nil {
		return err
	}
	if n != 1 || f.All != 1 || (f.Offloaded == 1) != offloaded {
		return fmt.Errorf("conntrack has %d UDP flows, %d in the flowtable, %d were marked; want one flow, in the flowtable: %v", f.All, f.Offloaded, n, offloaded)
	}
	return nil
}

// commit makes other settings the running ones, and waits until the kernel has them: the commit's
// reply comes after that.
func (l *lab) commit(change func(*settings.Settings)) error {
	s := Settings()
	change(s)
	return l.do("commit", map[string]json.RawMessage{"Settings": settings.Export(s, true)}, nil)
}

// peer replaces the router's rules by others and measures; the router's come back after it.
func (l *lab) peer(masquerade string, measure func() (float64, error)) (float64, error) {
	return l.quiet(func() (float64, error) {
		if err := l.do("ruleset", map[string]string{"Masquerade": masquerade}, nil); err != nil {
			return 0, err
		}
		return measure()
	})
}

// spread is the widest distance of the values from their median, in per cent of it.
func spread(v []float64) (median, percent float64) {
	s := slices.Sorted(slices.Values(v))
	median = s[len(s)/2]
	return median, 100 * max(s[len(s)-1]-median, median-s[0]) / median
}
