package netd

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/passthrough"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/firmware/supervise"
)

type none struct{}

// status is api.MethodStatus.
func (d *daemon) status(context.Context, api.Peer, none) (*api.Status, error) {
	f, want, s := d.known(), d.desired(), d.commits.State()
	st := &api.Status{
		Hostname: want.Hostname, Board: d.board.Name, Version: d.version,
		Uptime: uptime(), Time: time.Now(), ClockSet: f.Synced,
		Revision: s.Running.N, Claimed: claimed(s.Running.Settings), SerialOpen: serialOpen(s.Running.Settings),
		LAN:    api.LANStatus{Address: want.LAN.Address, Moved: want.LAN.Moved, Leases: len(f.Leases)},
		Memory: memory(), Conntrack: conntrackFill(), DNS: d.edges.counters(), Problems: d.problems(),
	}
	st.WAN = api.WANStatus{
		Up: f.Links[want.WAN.Device].Carrier, Mode: s.Running.Settings.WAN.Mode,
		Address: want.WAN.Address, Gateway: want.WAN.Gateway, DNS: want.DNS.Upstreams,
	}
	if f.WAN != nil && want.WAN.Address.IsValid() && st.WAN.Mode == "dhcp" {
		// By the clock that runs now: it may have been set since the lease came.
		st.WAN.Expires = time.Now().Add(time.Until(f.WAN.Expires))
	}
	var services []supervise.Status
	err := d.init.with(func(c *initctl.Client) (err error) { services, err = c.Services(); return err })
	if err != nil {
		d.log.Error("services", "err", err)
	}
	for _, v := range services {
		st.Services = append(st.Services, api.Service{Name: v.Name, State: string(v.State), PID: v.Pid, Restarts: v.Restarts, Since: v.Since, LastExit: v.LastExit})
	}
	return st, nil
}

// serialOpen tells whether the serial line lets in whoever holds the cable: an
// owner without a password can't be asked for one.
func serialOpen(s *settings.Settings) bool { return claimed(s) && s.System.Admin.Password == "" }

// problems are all standing ones, one sentence each.
func (d *daemon) problems() []string {
	want := d.desired()
	var ps []string
	d.mu.Lock()
	ps = append(ps, d.notes...)
	if d.undone != "" {
		ps = append(ps, d.undone)
	}
	d.mu.Unlock()
	err := d.init.with(func(c *initctl.Client) error {
		st, err := c.Status()
		if err == nil {
			ps = append(ps, st.Problems...)
		}
		return err
	})
	if err != nil {
		ps = append(ps, sentence(err.Error()))
	}
	ps = append(ps, want.Problems...)
	link := d.linkOf(want.WAN.Device)
	switch {
	case link.Index == 0:
		ps = append(ps, fmt.Sprintf("The WAN port %s is missing: the hardware or its driver does not show it.", want.WAN.Device))
	case !link.Carrier:
		ps = append(ps, fmt.Sprintf("No cable or no link on the WAN port %s. Check the cable and the modem.", want.WAN.Device))
	default:
		if p := d.wan.problem(); p != "" {
			ps = append(ps, p)
		}
	}
	if p := d.clock.problem(); p != "" {
		ps = append(ps, p)
	}
	ps = append(ps, d.servers.problems()...)
	ps = append(ps, d.tunnels.problems()...)
	ps = append(ps, d.l2tp.problems()...)
	fill := conntrackFill()
	ps = append(ps, d.crowds(fill)...)
	if fill.Max > 0 && fill.Used > fill.Max*9/10 {
		ps = append(ps, fmt.Sprintf("The table of connections is nearly full, %d of %d. See who opens so many: show connections", fill.Used, fill.Max))
	}
	return ps
}

// interfaces is api.MethodInterfaces.
func (d *daemon) interfaces(context.Context, api.Peer, none) ([]api.Interface, error) {
	want := d.desired()
	d.mu.Lock()
	have := d.have.Clone()
	d.mu.Unlock()
	list := []api.Interface{}
	for _, l := range have.Links {
		i := api.Interface{Name: l.Name, Up: l.Up, Carrier: l.Carrier, MAC: l.MAC, MTU: l.MTU}
		switch {
		case l.Name == want.LAN.Device:
			i.Role = "lan"
		case l.Name == want.WAN.Device:
			i.Role = "wan"
		case slices.Contains(d.board.Ports.LAN, l.Name):
			i.Role = "lan port"
		}
		for _, a := range addresses(have, l.Name) {
			i.Addresses = append(i.Addresses, a.Prefix)
		}
		counters(&i)
		list = append(list, i)
	}
	return list, nil
}

// leasesOf is api.MethodLeases.
func (d *daemon) leasesOf(context.Context, api.Peer, none) ([]api.Lease, error) {
	list := []api.Lease{}
	for _, l := range d.known().Leases {
		list = append(list, api.Lease{Addr: l.Addr, MAC: l.MAC, Name: l.Name, Expires: l.Expires, Static: l.Static})
	}
	slices.SortFunc(list, func(a, b api.Lease) int { return a.Addr.Compare(b.Addr) })
	return list, nil
}

// names of LAN devices by address.
func (d *daemon) names() map[netip.Addr]string {
	names := map[netip.Addr]string{}
	for _, n := range d.desired().DNS.Names {
		names[n.Addr] = n.Name
	}
	return names
}

// called is a device as people know it: its name, if it has one, and address.
func called(names map[netip.Addr]string, a netip.Addr) string {
	return strings.TrimSpace(names[a] + " " + a.String())
}

// lookout is where the settings in effect look for tunnels.
func (d *daemon) lookout() passthrough.Lookout {
	s := d.desired().Settings
	l := passthrough.Lookout{Ports: map[passthrough.Port]string{}}
	for _, p := range s.Passthrough.Protocols() {
		for _, x := range p.Looked() {
			if p.Name == "sstp" {
				continue
			}
			protocol := uint8(17)
			if x.Protocol == settings.TCP {
				protocol = 6
			}
			l.Ports[passthrough.Port{Protocol: protocol, Number: uint16(x.Port)}] = p.Name
		}
	}
	l.SSTP, l.Served = plan.SSTP(s, d.known())
	return l
}

// view is what tells tunnels from other connections.
func (d *daemon) view() passthrough.View {
	seconds := func(name string) time.Duration {
		return time.Duration(number("/proc/sys/net/netfilter/nf_conntrack_"+name)) * time.Second
	}
	return passthrough.View{
		LAN: d.desired().LAN.Address, Names: d.names(), Now: time.Now(), Uptime: uptime(), Lookout: d.lookout(),
		Timeouts: passthrough.Timeouts{
			TCPEstablished: seconds("tcp_timeout_established"),
			TCPShort:       max(seconds("tcp_timeout_max_retrans"), seconds("tcp_timeout_unacknowledged")),
			UDP:            seconds("udp_timeout"), UDPStream: seconds("udp_timeout_stream"),
			GRE: seconds("gre_timeout"), GREStream: seconds("gre_timeout_stream"),
			Generic: seconds("generic_timeout"),
		},
	}
}

// sessions is api.MethodPassthrough.
func (d *daemon) sessions(context.Context, api.Peer, none) ([]api.Session, error) {
	var entries []conntrack.Entry
	view := d.view()
	err := d.conntrack.Dump(func(e *conntrack.Entry) error {
		if view.Relevant(e) {
			entries = append(entries, *e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	native, err := d.tunnels.sessions()
	if err != nil {
		return nil, err
	}
	list := append(passthrough.Sessions(entries, view), passthrough.NativeSessions(native, view)...)
	passthrough.Sort(list)
	return list, nil
}

// counters is api.MethodCounters.
func (d *daemon) counters(context.Context, api.Peer, none) (*api.PassthroughCounters, error) {
	native, err := d.tunnels.sessions()
	if err != nil {
		return nil, err
	}
	c := &api.PassthroughCounters{
		Servers: passthrough.Counters(native), Sets: []api.SetFill{},
		Names: d.servers.status(), SecondDevices: d.tunnels.admitted.Load(), Refused: d.tunnels.refused.Load(), MostDevices: mostShared,
		Bindings: d.tunnels.bindings.bound.Load(), Corrections: d.tunnels.bindings.ended.Load(),
		L2TPClashes: d.l2tp.known(), Keeper: plan.Keeper(d.desired().Settings, d.known()),
	}
	if c.Clashes, err = d.conntrack.Clashes(); err != nil {
		return nil, err
	}
	if c.Expectations.Used, err = d.conntrack.Expectations(); err != nil {
		return nil, err
	}
	c.Expectations.Max = int(number("/proc/sys/net/netfilter/nf_conntrack_expect_max"))
	sent, err := d.tunnels.learned(plan.Copies)
	if err != nil {
		return nil, err
	}
	for _, e := range sent {
		if i := slices.IndexFunc(c.Servers, func(s api.ServerCounters) bool { return s.Server == address(e.Key) }); i >= 0 {
			c.Servers[i].Copies = e.Packets
		}
	}
	if c.Dropped, c.Crowding, err = d.tunnels.limited(); err != nil {
		return nil, err
	}
	rules := d.desired().Rules
	if rules == nil || rules.IP == nil {
		return c, nil
	}
	for _, s := range rules.IP.Sets {
		if !s.Learned {
			continue
		}
		list, err := d.tunnels.learned(s.Name)
		if err != nil {
			return nil, err
		}
		c.Sets = append(c.Sets, api.SetFill{Name: s.Name, Used: len(list), Max: s.Size})
	}
	return c, nil
}

// protection is api.MethodProtection.
func (d *daemon) protection(context.Context, api.Peer, none) (*api.Protection, error) {
	wan := d.desired().WAN.Address.Addr()
	p := passthrough.NewProtection(d.view(), wan)
	if err := d.conntrack.Dump(func(e *conntrack.Entry) error { p.Add(e); return nil }); err != nil {
		return nil, err
	}
	native, err := d.tunnels.sessions()
	if err != nil {
		return nil, err
	}
	for _, n := range native {
		p.AddNative(n)
	}
	return &api.Protection{Address: wan, Behind: passthrough.Behind(wan), Devices: p.Devices()}, nil
}

// logOf is api.MethodLog: one service's lines, or all of them by time.
func (d *daemon) logOf(_ context.Context, _ api.Peer, p api.LogParams) ([]api.LogLine, error) {
	n := min(max(p.Lines, 0), 2000)
	if n == 0 {
		n = 50
	}
	names := []string{p.Service}
	if p.Service == "" {
		names = append([]string{initctl.LogInit}, serviceNames...)
	}
	lines := []api.LogLine{}
	for _, name := range names {
		var got []supervise.Line
		err := d.init.with(func(c *initctl.Client) (err error) { got, err = c.Log(name, n); return err })
		if err != nil {
			return nil, &api.Error{Code: "invalid", Text: sentence(err.Error()) + " There are: init, kernel, " + strings.Join(serviceNames, ", ") + "."}
		}
		for _, l := range got {
			lines = append(lines, api.LogLine{Time: l.Wall, Service: name, Text: l.Text})
		}
	}
	slices.SortStableFunc(lines, func(a, b api.LogLine) int { return a.Time.Compare(b.Time) })
	return lines[max(0, len(lines)-n):], nil
}

// versionOf is api.MethodVersion.
func (d *daemon) versionOf(context.Context, api.Peer, none) (*api.Version, error) {
	return &api.Version{Culvert: d.version, Kernel: kernelRelease(), Go: runtime.Version(), Board: d.board.Name}, nil
}

// history is api.MethodHistory.
func (d *daemon) history(context.Context, api.Peer, none) ([]api.Revision, error) {
	revisions, err := d.store.History()
	if err != nil {
		return nil, err
	}
	list := []api.Revision{}
	for _, r := range revisions {
		list = append(list, d.revision(r))
	}
	return list, nil
}
