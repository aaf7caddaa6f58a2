package netd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

// Of a live diagnosis.
const (
	diagnoseWatch  = 30 * time.Second
	diagnoseLook   = 500 * time.Millisecond
	diagnoseOthers = 5 * time.Second // how often who else talks to the server is looked for
	mostDiagnoses  = 8               // at once: each looks at every packet of its server
)

// diagnose is api.MethodDiagnose.
func (d *daemon) diagnose(ctx context.Context, _ api.Peer, p api.DiagnoseParams) (*api.Diagnosis, error) {
	s, err := d.diagnosed(ctx, p)
	if err != nil {
		return nil, err
	}
	if s.Flows, _, err = d.remembered(&s); err != nil {
		return nil, err
	}
	found := diagnose.Judge(s)
	return &found, nil
}

// diagnoseWatch is api.MethodDiagnoseWatch.
func (d *daemon) diagnoseWatch(ctx context.Context, _ api.Peer, p api.DiagnoseParams, send func(api.Watching) error) error {
	s, err := d.diagnosed(ctx, p)
	if err != nil {
		return err
	}
	known, aside, err := d.remembered(&s)
	if err != nil {
		return err
	}
	s.Flows = known
	if found := diagnose.Judge(s); found.Cause == diagnose.NoWAN {
		return send(api.Watching{Found: &found})
	}
	if d.watching.Add(1) > mostDiagnoses {
		d.watching.Add(-1)
		return &api.Error{Code: "busy", Text: fmt.Sprintf("%d diagnoses watch already. Try again when one has ended, in half a minute at most.", mostDiagnoses)}
	}
	found, err := d.watchVPN(ctx, s, known, aside, func() error { return send(api.Watching{}) })
	d.watching.Add(-1) // before it is told: who is told may ask at once again
	if err != nil {
		return err
	}
	return send(api.Watching{Found: found})
}

// diagnosed is who is to be diagnosed, and what the router knows beside packets.
func (d *daemon) diagnosed(ctx context.Context, p api.DiagnoseParams) (diagnose.Seen, error) {
	if found := d.servers.refresh(ctx, p.ServerName); len(found) > 0 && !slices.Contains(found, p.Server) {
		p.Server = found[0] // who asked was told another of its addresses
	}
	want := d.desired()
	s := diagnose.Seen{Server: p.Server, ServerName: p.ServerName, Protocol: p.Protocol, ClockSet: d.known().Synced || len(want.NTP.Servers) == 0}
	if p.Protocol != "" && !slices.Contains(diagnose.Protocols, p.Protocol) {
		return s, invalid("%q cannot be diagnosed. Give one of: %s", p.Protocol, strings.Join(diagnose.Protocols, ", "))
	}
	if !p.Server.Is4() || want.LAN.Address.Contains(p.Server) {
		return s, invalid("%s is no server on the Internet side. Give its IPv4 address or name", p.Server)
	}
	names := d.names()
	var err error
	if s.Device, err = netip.ParseAddr(p.Device); err != nil {
		for a, name := range names {
			if strings.EqualFold(name, strings.TrimSuffix(p.Device, ".lan")) {
				s.Device = a
			}
		}
		if !s.Device.IsValid() {
			return s, invalid("No device is called %q. See: show leases", p.Device)
		}
	}
	if !want.LAN.Address.Contains(s.Device) || s.Device == want.LAN.Address.Addr() {
		return s, invalid("%s is no device of the LAN, %s. See: show leases", s.Device, want.LAN.Address.Masked())
	}
	s.Name = names[s.Device]
	s.WAN = want.WAN.Address.Addr()
	link := d.linkOf(want.WAN.Device)
	if want.WAN.Held || !s.WAN.IsValid() || !link.Carrier {
		s.WAN = netip.Addr{}
		s.WANProblem = strings.Join(d.problems(), " ")
	}
	d.refusals(&s)
	return s, nil
}

func invalid(format string, v ...any) error {
	return &api.Error{Code: "invalid", Text: fmt.Sprintf(format, v...)}
}

// refusals are what the settings in effect refuse.
func (d *daemon) refusals(s *diagnose.Seen) {
	want := d.desired()
	s.Off, s.Denied, s.CopyOff = nil, nil, !want.Settings.Passthrough.IPsec.Copy
	for _, p := range want.Settings.Passthrough.Protocols() {
		if !p.Enabled {
			s.Off = append(s.Off, p.Name)
		}
	}
	for _, r := range plan.Refusals(want.Settings, want.Facts, s.Device, macOf(s.Device.String()), s.Server) {
		for _, p := range want.Settings.Passthrough.Protocols() {
			if r.List == "servers" && p.Name == r.Protocol {
				r.Why = d.servers.unknown(p.Servers)
			}
		}
		s.Denied = append(s.Denied, diagnose.Denied(r))
	}
}

// remembered is what the kernel's tables tell of the last attempt; it also
// fills in what the device and the server have with others. aside are servers
// of other VPNs.
func (d *daemon) remembered(s *diagnose.Seen) (flows []diagnose.Flow, aside []netip.Addr, err error) {
	now, up, lan := time.Now(), uptime(), d.desired().LAN.Address
	s.Others, s.Elsewhere = nil, nil
	err = d.conntrack.Dump(func(e *conntrack.Entry) error {
		f, device, server, ok := tracked(e, lan)
		if ok && server != s.Server && f.In.Packets > 0 && f.Part != diagnose.SSTP {
			aside = append(aside, server)
		}
		switch {
		case !ok:
		case server == s.Server && device == s.Device:
			if !e.Start.IsZero() {
				f.Age = min(max(0, now.Sub(e.Start)), up)
			}
			flows = append(flows, f)
		case server == s.Server && f.Part.Protocol() == "ipsec" && f.In.Packets > 0:
			d.beside(s, device)
		case device == s.Device && f.In.Packets > 0 && f.Part != diagnose.SSTP: // which any web page is
			if text := f.Part.Protocol() + " to " + server.String(); !slices.Contains(s.Elsewhere, text) {
				s.Elsewhere = append(s.Elsewhere, text)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	native, servers, err := d.untracked(s, now)
	native = slices.DeleteFunc(native, func(f diagnose.Flow) bool {
		// The device went over to NAT traversal since.
		return f.Part == diagnose.ESP && slices.ContainsFunc(flows, func(g diagnose.Flow) bool { return g.Part == diagnose.NATT && g.Age < f.Last })
	})
	slices.Sort(s.Others)
	slices.Sort(s.Elsewhere)
	aside = append(aside, servers...)
	slices.SortFunc(aside, netip.Addr.Compare)
	return newest(append(flows, native...)), slices.Compact(aside), err
}

// beside notes that another device talks IPsec to the server.
func (d *daemon) beside(s *diagnose.Seen, device netip.Addr) {
	name := d.names()[device]
	if name == "" {
		name = device.String()
	}
	if !slices.Contains(s.Others, name) {
		s.Others = append(s.Others, name)
	}
}

// tracked is the flow of an entry between a device and a server, whichever
// sent first; GRE may begin at either end. Connections that are over tell
// nothing.
func tracked(e *conntrack.Entry, lan netip.Prefix) (f diagnose.Flow, device, server netip.Addr, ok bool) {
	if e.TCPState == conntrack.TimeWait || e.TCPState == conntrack.Close {
		return f, device, server, false
	}
	out, in := diagnose.Count{Packets: e.OrigPackets, Bytes: e.OrigBytes}, diagnose.Count{Packets: e.ReplyPackets, Bytes: e.ReplyBytes}
	sport, dport := e.Orig.SrcPort, e.Orig.DstPort
	device, server = e.Orig.Src, e.Orig.Dst
	if !lan.Contains(device) {
		if device, server = e.Reply.Src, e.Orig.Src; e.Protocol != 47 {
			return f, device, server, false
		}
		out, in = in, out
	}
	f.Part, ok = diagnose.Of(e.Protocol, dport)
	if f.Out, f.In = out, in; e.Protocol == 6 || e.Protocol == 17 {
		f.Ports = fmt.Sprintf("%d>%d", sport, dport)
	}
	return f, device, server, ok && lan.Contains(device) && !lan.Contains(server)
}

// attempt is how long ago a device's last ESP may be to belong to its last
// attempt.
const attempt = 2 * time.Minute

// untracked are the flows that pass conntrack by: ESP, and IKE between ports
// 500, which nothing counts. aside are other servers of these.
func (d *daemon) untracked(s *diagnose.Seen, now time.Time) (flows []diagnose.Flow, aside []netip.Addr, err error) {
	devices, err := d.tunnels.look()
	if err != nil {
		return nil, nil, err
	}
	for server := range devices {
		if server != s.Server {
			aside = append(aside, server)
		}
	}
	for _, a := range devices[s.Server] {
		if a != s.Device {
			d.beside(s, a)
		}
	}
	if !slices.Contains(devices[s.Server], s.Device) {
		return nil, aside, nil
	}
	known, err := d.tunnels.learned(plan.Bound)
	if err != nil {
		return nil, nil, err
	}
	s.Bound = slices.ContainsFunc(known, func(e nft.Learned) bool { return address(e.Key) == s.Server && address(e.Data) == s.Device })
	ike, esp := diagnose.Flow{Part: diagnose.IKE}, diagnose.Flow{Part: diagnose.ESP}
	for _, name := range []string{plan.Cookies, plan.Outbound, plan.Inbound} {
		set := plan.LearnedSet(name)
		list, err := d.tunnels.learned(name)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range list {
			last := set.Timeout - e.Expires // every packet of a device refreshes it
			recent := last < attempt
			switch {
			case address(e.Key) != s.Server:
			case name == plan.Inbound:
				esp.In = diagnose.Count{Packets: esp.In.Packets + e.Packets, Bytes: esp.In.Bytes + e.Bytes}
			case address(e.Data) != s.Device || !recent:
			case name == plan.Cookies:
				ike.Uncounted, ike.Ports = true, "500>500"
			default:
				if esp.Out.Packets == 0 || last < esp.Last {
					esp.Last = last
				}
				esp.Out = diagnose.Count{Packets: esp.Out.Packets + e.Packets, Bytes: esp.Out.Bytes + e.Bytes}
			}
		}
	}
	if since := d.tunnels.first(pair{s.Server, s.Device}); !since.IsZero() {
		ike.Age, esp.Age = now.Sub(since), now.Sub(since)
	}
	if ike.Uncounted {
		flows = append(flows, ike)
	}
	if esp.Out.Packets > 0 {
		flows = append(flows, esp)
	}
	return flows, aside, nil
}

// newest keeps the youngest flow of each part, in order.
func newest(all []diagnose.Flow) []diagnose.Flow {
	slices.SortStableFunc(all, func(a, b diagnose.Flow) int {
		if c := strings.Compare(string(a.Part), string(b.Part)); c != 0 {
			return c
		}
		return int(a.Age - b.Age)
	})
	return slices.CompactFunc(all, func(a, b diagnose.Flow) bool { return a.Part == b.Part })
}

// watchVPN looks at the packets themselves until they tell the cause; it calls
// ready when it begins.
func (d *daemon) watchVPN(ctx context.Context, s diagnose.Seen, known []diagnose.Flow, aside []netip.Addr, ready func() error) (*api.Diagnosis, error) {
	want := d.desired()
	w := &diagnose.Watch{Device: s.Device, Server: s.Server, Router: want.LAN.Address.Addr(), Outside: s.WAN}
	lan, err := openTap(want.LAN.Device, tapFilter(w.Server))
	if err != nil {
		return nil, err
	}
	defer lan.Close()
	wan, err := openTap(want.WAN.Device, wanFilter(w.Server, w.Outside, aside))
	if err != nil {
		return nil, err
	}
	defer wan.Close()
	began := time.Now()
	if err := ready(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, diagnoseWatch)
	defer stop()
	var mu sync.Mutex
	g, taps := errgroup.WithContext(ctx)
	read := func(c *packet.Conn, take func([]byte, time.Duration)) {
		g.Go(func() error {
			return readTap(taps, c, func(b []byte) {
				mu.Lock()
				defer mu.Unlock()
				take(b, time.Since(began))
			})
		})
	}
	read(lan, w.LAN)
	read(wan, w.WAN)
	look := func(aside []netip.Addr) []diagnose.Flow {
		mu.Lock()
		defer mu.Unlock()
		w.Aside = aside
		return w.Flows(time.Since(began))
	}
	found, err := d.untilTold(taps, s, known, aside, began, look)
	stop()
	return found, errors.Join(err, g.Wait())
}

// untilTold looks at what was seen until it tells the cause or ctx is done.
func (d *daemon) untilTold(ctx context.Context, s diagnose.Seen, known []diagnose.Flow, aside []netip.Addr, began time.Time, look func(aside []netip.Addr) []diagnose.Flow) (*api.Diagnosis, error) {
	var found api.Diagnosis
	tick := time.NewTicker(diagnoseLook)
	defer tick.Stop()
	looked, certain := began, false
	for over := false; !over; {
		select {
		case <-ctx.Done():
			over = true
		case <-tick.C:
		}
		d.refusals(&s)
		// A stray answer may be that of a server that was called meanwhile.
		if time.Since(looked) >= diagnoseOthers || found.Cause == diagnose.OtherAddress {
			looked = time.Now()
			_, now, err := d.remembered(&s)
			if err != nil {
				return nil, err
			}
			aside, certain = now, found.Cause == diagnose.OtherAddress
		}
		s.Watched = time.Since(began)
		live := look(aside)
		s.Flows = diagnose.Merge(known, live)
		found = diagnose.Judge(s)
		// What was known before is no answer to who asked for a new attempt.
		if found.Settled && (found.Cause != diagnose.OtherAddress || certain) && (len(live) > 0 || found.Cause == diagnose.Off || found.Cause == diagnose.NotAllowed) {
			break
		}
	}
	return &found, nil
}
