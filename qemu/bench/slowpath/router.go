package slowpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/bench/frames"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
)

const lanDevice, wanDevice = "br-lan", "eth1"

// Who talks to whom. The networks are those of documentation, and the default LAN.
var (
	wanAddress = netip.MustParseAddr("203.0.113.2")
	gateway    = netip.MustParseAddr("203.0.113.1")
	device     = netip.MustParseAddrPort("192.168.1.100:40000")
	server     = netip.MustParseAddrPort("198.51.100.9:9")
	deviceMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 0x64}
	serverMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// router is a network namespace that forwards from a bridge to a device that
// drops what it is given.
type router struct {
	lan, wan *netlink.LinkAttrs
	out, in  []byte // frames of one flow: of the device, and of the server that answers
	stray    []byte // a frame that is for somebody else
}

// newRouter makes one of the current namespace, which is empty.
func newRouter() (*router, error) {
	// Without IPv6 nothing sends by itself, and what arrives can be counted.
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r, s := &router{}, settings.Default()
	if r.lan, err = addLink(&netlink.Bridge{LinkAttrs: named(lanDevice)}, s.LAN.Address); err != nil {
		return nil, err
	}
	if r.wan, err = addLink(&netlink.Ifb{LinkAttrs: named(wanDevice)}, netip.PrefixFrom(wanAddress, 24)); err != nil {
		return nil, err
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
		return nil, fmt.Errorf("default route: %w", err)
	}
	for _, n := range []*netlink.Neigh{
		{LinkIndex: r.lan.Index, IP: device.Addr().AsSlice(), HardwareAddr: deviceMAC, State: netlink.NUD_PERMANENT},
		{LinkIndex: r.wan.Index, IP: gateway.AsSlice(), HardwareAddr: serverMAC, State: netlink.NUD_PERMANENT},
	} {
		if err := netlink.NeighSet(n); err != nil {
			return nil, fmt.Errorf("neighbour %s: %w", n.IP, err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return nil, err
	}
	r.out = frames.UDP(deviceMAC, r.lan.HardwareAddr, device, server)
	r.in = frames.UDP(serverMAC, r.wan.HardwareAddr, server, netip.AddrPortFrom(wanAddress, device.Port()))
	r.stray = frames.UDP(deviceMAC, serverMAC, device, server)
	return r, nil
}

// close takes everything away again.
func (r *router) close() error {
	err := culvert(nil)
	for _, a := range []*netlink.LinkAttrs{r.lan, r.wan} {
		err = errors.Join(err, netlink.LinkDel(&netlink.Device{LinkAttrs: *a}))
	}
	return errors.Join(err, load(context.Background(), linear.Plain().Text()))
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// addLink makes a link, up and with an address, and says what it has become.
func addLink(l netlink.Link, address netip.Prefix) (*netlink.LinkAttrs, error) {
	name := l.Attrs().Name
	if err := netlink.LinkAdd(l); err != nil {
		return nil, fmt.Errorf("add %s (%s): %w", name, l.Type(), err)
	}
	made, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), 32)}}
	if err := netlink.AddrAdd(made, a); err != nil {
		return nil, fmt.Errorf("%s: address %s: %w", name, address, err)
	}
	if err := netlink.LinkSetUp(made); err != nil {
		return nil, fmt.Errorf("%s up: %w", name, err)
	}
	return made.Attrs(), nil
}

// policy is what all peers are given: the default settings, without offload, and
// port forwards.
func policy(forwards int) firewall.Input {
	s := settings.Default()
	s.Firewall.Offload = false
	s.Firewall.Forwards = linear.Forwards(s.LAN.Address, forwards)
	return firewall.Input{LANDevice: lanDevice, WANDevice: wanDevice, LAN: s.LAN.Address, WAN: []netip.Addr{wanAddress}, Claimed: true, Settings: s}
}

// culvert loads the product's rules, as netd does. No policy takes them away.
func culvert(in *firewall.Input) error {
	c := nft.New(nft.Options{})
	have, err := c.Observe()
	if err != nil {
		return err
	}
	var want *ruleset.Table
	if in != nil {
		want, _ = firewall.Ruleset(*in)
	}
	return c.Apply(have, want)
}

// load gives a text to nft.
func load(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft -f: %w: %.500s", err, out)
	}
	return nil
}

// established is the CPU time of a packet of one flow that was answered.
func (r *router) established(n int) (time.Duration, error) {
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return 0, fmt.Errorf("flush conntrack: %w", err)
	}
	for _, f := range []struct {
		device int
		frame  []byte
	}{{r.lan.Index, r.out}, {r.wan.Index, r.in}} {
		if _, err := frames.Packets(f.device, f.frame, 1); err != nil {
			return 0, err
		}
	}
	cpu, err := r.counted(n, frames.Packets)
	if err != nil {
		return 0, err
	}
	return cpu, flows(1, true)
}

// begun is the CPU time of the first packet of a flow, when each device has so
// many open already.
func (r *router) begun(n, open int) (time.Duration, error) {
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return 0, fmt.Errorf("flush conntrack: %w", err)
	}
	if open *= frames.Hosts; open > 0 {
		if _, err := frames.Flows(r.lan.Index, r.out, 0, open); err != nil {
			return 0, err
		}
	}
	cpu, err := r.counted(n, func(device int, frame []byte, n int) (time.Duration, error) {
		return frames.Flows(device, frame, open, n)
	})
	if err != nil {
		return 0, err
	}
	return cpu, flows(n+open, false)
}

// counted sends, and wants each packet at the WAN.
func (r *router) counted(n int, send func(int, []byte, int) (time.Duration, error)) (time.Duration, error) {
	before, err := arrived()
	if err != nil {
		return 0, err
	}
	cpu, err := send(r.lan.Index, r.out, n)
	if err != nil {
		return 0, err
	}
	after, err := arrived()
	if err == nil && after-before != uint64(n) {
		err = fmt.Errorf("%d packets sent, %d arrived", n, after-before)
	}
	return cpu, err
}

// arrived counts the packets that an ifb was given: they count as received.
func arrived() (uint64, error) {
	l, err := netlink.LinkByName(wanDevice)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", wanDevice, err)
	}
	return l.Attrs().Statistics.RxPackets, nil
}

// flows checks that conntrack has n UDP flows, answered or not: else it was
// something else that was measured.
func flows(n int, answered bool) error {
	c, err := conntrack.New()
	if err != nil {
		return err
	}
	all, right := 0, 0
	err = c.Dump(func(e *conntrack.Entry) error {
		if e.Protocol == unix.IPPROTO_UDP {
			all++
			if answered == (e.Status&conntrack.SeenReply != 0) && e.Reply.Dst == wanAddress {
				right++
			}
		}
		return nil
	})
	if err == nil && (all != n || right != n) {
		err = fmt.Errorf("conntrack has %d flows, %d of them translated and answered=%v; want %d", all, right, answered, n)
	}
	return err
}
