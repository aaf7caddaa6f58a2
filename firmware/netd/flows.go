package netd

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

const (
	connectionsShown = 200
	connectionsMost  = 5000
)

// connections is api.MethodConnections.
func (d *daemon) connections(_ context.Context, _ api.Peer, p api.ConnectionsParams) ([]api.Connection, error) {
	limit := min(p.Limit, connectionsMost)
	if limit <= 0 {
		limit = connectionsShown
	}
	list := []api.Connection{}
	err := d.conntrack.Dump(func(e *conntrack.Entry) error {
		if len(list) >= limit || p.Device.IsValid() && e.Orig.Src != p.Device && e.Reply.Src != p.Device {
			return nil
		}
		list = append(list, api.Connection{
			Protocol: e.ProtocolName(),
			Src:      netip.AddrPortFrom(e.Orig.Src, e.Orig.SrcPort), Dst: netip.AddrPortFrom(e.Orig.Dst, e.Orig.DstPort),
			ReplySrc: netip.AddrPortFrom(e.Reply.Src, e.Reply.SrcPort), ReplyDst: netip.AddrPortFrom(e.Reply.Dst, e.Reply.DstPort),
			State: e.State(), Offloaded: e.Offloaded(),
			Bytes: e.OrigBytes + e.ReplyBytes, Packets: e.OrigPackets + e.ReplyPackets, Timeout: e.Timeout,
		})
		return nil
	})
	return list, err
}

// firewall is api.MethodFirewall: the table that the kernel was last given.
func (d *daemon) firewall(context.Context, api.Peer, none) (api.Firewall, error) {
	want := d.desired()
	f := api.Firewall{Ruleset: strings.Split(strings.TrimRight(want.Rules.Text(), "\n"), "\n"), Servers: []api.VPNServer{}}
	for _, v := range firewall.Serving(want.Settings, want.Rules) {
		f.Servers = append(f.Servers, api.VPNServer{
			Protocol: v.Name, Device: v.Device, Address: v.Address, Ports: v.Ports, InEffect: v.Off == "", Reason: v.Off, Peers: v.Peers,
		})
	}
	return f, nil
}

// endConnections deletes the connections that a commit forbids, once its rules
// are in: offloaded ones never meet the rules again.
func (d *daemon) endConnections(ended []passthrough.Selector) error {
	if len(ended) == 0 {
		return nil
	}
	n, err := d.conntrack.Delete(func(e *conntrack.Entry) bool {
		return slices.ContainsFunc(ended, func(s passthrough.Selector) bool {
			return s.Picks(passthrough.Flow{
				Protocol: e.Protocol, Sport: e.Orig.SrcPort, Dport: e.Orig.DstPort, ReplySport: e.Reply.SrcPort,
				DNATed: e.DNATed(), Crossing: e.DNATed() || e.Reply.Dst != e.Orig.Src, Src: e.Orig.Src, ReplySrc: e.Reply.Src,
			})
		})
	})
	d.log.Info("connections ended", "count", n, "by", ended[0].Why)
	return err
}

// endAddresses deletes the connections of addresses that the router lost:
// their NAT would go on with an address that is somebody else's now.
func (d *daemon) endAddresses(gone []netip.Addr) error {
	n, err := d.conntrack.Delete(func(e *conntrack.Entry) bool {
		return slices.Contains(gone, e.Reply.Dst) || slices.Contains(gone, e.Orig.Dst)
	})
	d.log.Info("connections ended", "count", n, "by", gone)
	return err
}
