package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/nflog"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/l2tp"
	plan "github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// clashesKept bounds the memory for Tunnel IDs that two devices chose.
const clashesKept = 64

// l2tpTunnels tells the kernel which Tunnel ID is whose, for servers that
// answer to port 1701 alone. The packets are the kernel's: see plan/passthrough.
type l2tpTunnels struct {
	d     *daemon
	rules *nft.Conn

	mu      sync.Mutex
	clashes []api.L2TPClash // the oldest first, one a device and server
}

func newL2TPTunnels(d *daemon, rules *nft.Conn) *l2tpTunnels {
	return &l2tpTunnels{d: d, rules: rules}
}

// run serves until ctx is done.
func (t *l2tpTunnels) run(ctx context.Context) error {
	l, err := nflog.Listen(plan.L2TPLogGroup)
	if err != nil {
		return err
	}
	return l.Run(ctx, func(p nflog.Packet) {
		if err := t.learn(p.Data); err != nil && ctx.Err() == nil {
			t.d.log.Error("an L2TP tunnel", "err", err)
		}
	})
}

// call is an SCCRQ as it leaves the WAN.
type call struct {
	server netip.Addr
	port   uint16 // that it comes from
	tunnel uint16 // assigned by the device
}

// parseCall reads an IPv4 packet with an SCCRQ.
func parseCall(packet []byte) (c call, err error) {
	const ipv4, udp = 20, 8
	if len(packet) < ipv4 || packet[0]>>4 != 4 {
		return c, l2tp.ErrMalformed
	}
	n := int(packet[0]&15) * 4
	if n < ipv4 || len(packet) < n+udp || packet[9] != unix.IPPROTO_UDP {
		return c, l2tp.ErrMalformed
	}
	c.server, c.port = netip.AddrFrom4([4]byte(packet[16:20])), binary.BigEndian.Uint16(packet[n:])
	c.tunnel, err = l2tp.AssignedTunnel(packet[n+udp:])
	return c, err
}

// learn gives a Tunnel ID to the flow of the device that chose it, unless it is
// another device's at the same server.
func (t *l2tpTunnels) learn(packet []byte) error {
	c, err := parseCall(packet)
	switch {
	case errors.Is(err, l2tp.ErrHidden):
		t.d.log.Warn("a device hides its L2TP Tunnel ID; a server that answers to port 1701 alone does not reach it beside others", "server", c.server)
		return nil
	case err != nil:
		t.d.log.Debug("what looks like an SCCRQ", "server", c.server, "err", err)
		return nil
	}
	key := portKey(c.server, c.tunnel)
	err = t.put(key, c.port, t.rules.Learn)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	owner, err := t.owner(key)
	if err != nil {
		return err
	}
	device, err := t.device(c.server, c.port)
	if err != nil {
		return err
	}
	if owner.IsValid() && owner != device {
		t.clash(api.L2TPClash{Server: c.server, Tunnel: c.tunnel, Device: device, Owner: owner, Time: time.Now()})
		return nil
	}
	return t.put(key, c.port, t.rules.Relearn)
}

// put writes an element; without a table ip there is nothing to learn for.
func (t *l2tpTunnels) put(key ruleset.Key, port uint16, how func(ruleset.Set, ...ruleset.Element) error) error {
	err := how(plan.LearnedSet(plan.L2TPTunnels), ruleset.Element{Key: key, Data: ruleset.PortNumber(int(port))})
	if errors.Is(err, unix.ENOENT) {
		return nil // the switch was turned off
	}
	return err
}

// owner is the device that a Tunnel ID leads to, invalid when it is gone.
func (t *l2tpTunnels) owner(key ruleset.Key) (netip.Addr, error) {
	port, err := t.value(plan.L2TPTunnels, key)
	if port == "" {
		return netip.Addr{}, err
	}
	return t.device(address(key), binary.BigEndian.Uint16([]byte(port[:2])))
}

// device is the one whose flow to a server has this port on the WAN's address,
// invalid when there is none.
func (t *l2tpTunnels) device(server netip.Addr, port uint16) (netip.Addr, error) {
	device, err := t.value(plan.L2TPPorts, portKey(server, port))
	if device == "" {
		return netip.Addr{}, err
	}
	return address(device), nil
}

// value is what a learned map has for a key, "" when nothing.
func (t *l2tpTunnels) value(set string, key ruleset.Key) (data ruleset.Key, err error) {
	err = t.rules.EachLearned(plan.LearnedSet(set), func(e nft.Learned) {
		if e.Key == key {
			data = e.Data
		}
	})
	return data, err
}

func portKey(server netip.Addr, n uint16) ruleset.Key {
	return ruleset.Cat(ruleset.Addr(server), ruleset.PortNumber(int(n)))
}

// clash keeps, once, that a device chose the Tunnel ID of another one.
func (t *l2tpTunnels) clash(c api.L2TPClash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := slices.ContainsFunc(t.clashes, func(o api.L2TPClash) bool {
		return o.Server == c.Server && o.Device == c.Device && o.Tunnel == c.Tunnel
	})
	if known {
		return
	}
	t.d.log.Warn("two devices chose one L2TP Tunnel ID at a server; it stays with the first", "server", c.Server, "tunnel", c.Tunnel, "first", c.Owner, "second", c.Device)
	if len(t.clashes) == clashesKept {
		t.clashes = t.clashes[1:]
	}
	t.clashes = append(t.clashes, c)
}

// known are the clashes since netd started.
func (t *l2tpTunnels) known() []api.L2TPClash {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.clashes)
}

// problems are sentences about clashes of the last hour.
func (t *l2tpTunnels) problems() (out []string) {
	names := t.d.names()
	for _, c := range t.known() {
		if time.Since(c.Time) < time.Hour {
			out = append(out, fmt.Sprintf("%s chose L2TP Tunnel ID %d at %s, which %s has: if that server answers to port 1701 alone, it does not reach the second. Fix: let it connect again",
				called(names, c.Device), c.Tunnel, c.Server, called(names, c.Owner)))
		}
	}
	return out
}
