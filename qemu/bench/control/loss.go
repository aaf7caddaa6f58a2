package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/bench/frames"
)

// Loss is what became of packets while the settings changed.
type Loss struct {
	Changes int
	Sent    int // that the policy lets through
	Lost    int // of those
	Refused int // that the policy must drop, sent at the same time
	Leaked  int // of those, that arrived
}

// Those who send and receive. No packet leaves for who is not there: the
// neighbours are set by hand, to addresses that the far ends do not have, so
// that they count a packet and then ignore it.
var (
	device   = netip.MustParseAddrPort("192.168.1.100:40000")
	server   = netip.MustParseAddrPort("198.51.100.1:5000")
	stranger = netip.MustParseAddrPort("198.51.100.66:6000")
	farWAN   = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	farLAN   = net.HardwareAddr{2, 0, 0, 0, 0, 0x98}
)

const (
	batch   = 6400 // packets of one burst
	refused = 640  // and of those that must not arrive
)

// Loss sends at least least packets from the LAN to the Internet while the
// settings change so many times: by turns the rules of a chain, and a table of
// forwards. Beside them it sends packets from the Internet to a device of the
// LAN, which no forward asks for. Packets are counted at the far ends.
func (h *Host) Loss(ctx context.Context, changes, least int) (Loss, error) {
	var loss Loss
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done atomic.Bool
	sent := make(chan error, 1)
	go func() {
		err := h.inside(func() error { return send(ctx, &loss, least, &done) })
		if err != nil {
			cancel()
		}
		sent <- err
	}()
	var err error
	for i := 0; i < changes && err == nil; i++ {
		_, err = h.Commit(ctx, func(s *settings.Settings) {
			switch i % 4 {
			case 0, 2:
				s.Firewall.WANPing = !s.Firewall.WANPing
			case 1:
				s.Firewall.Forwards = map[string]settings.Forward{}
				for n := range 1000 {
					addForward(s, n)
				}
			case 3:
				s.Firewall.Forwards = nil
			}
		})
		loss.Changes++
	}
	done.Store(true)
	if err != nil {
		cancel()
	}
	return loss, errors.Join(<-sent, err)
}

// inside runs f in netd's network namespace, on a thread that ends with it.
func (h *Host) inside(f func() error) error {
	ns, err := os.Open("/proc/" + strconv.Itoa(h.PID) + "/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("netd's network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// ends are the links that packets go in and come out by.
type ends struct{ bridge, wan *net.Interface }

// send sends until done, and least packets at least, and counts.
func send(ctx context.Context, loss *Loss, least int, done *atomic.Bool) error {
	e, err := prepare()
	if err != nil {
		return err
	}
	allowed := frames.UDP(farLAN, e.bridge.HardwareAddr, device, server)
	forbidden := frames.UDP(farWAN, e.wan.HardwareAddr, stranger, device)
	atWAN, err := received("isp0")
	if err != nil {
		return err
	}
	atLAN, err := received("pc0")
	if err != nil {
		return err
	}
	for loss.Sent < least || !done.Load() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := frames.Packets(e.bridge.Index, allowed, batch); err != nil {
			return err
		}
		if _, err := frames.Packets(e.wan.Index, forbidden, refused); err != nil {
			return err
		}
		loss.Sent, loss.Refused = loss.Sent+batch, loss.Refused+refused
	}
	time.Sleep(settle)
	wan, err := received("isp0")
	if err != nil {
		return err
	}
	lan, err := received("pc0")
	if err != nil {
		return err
	}
	loss.Lost, loss.Leaked = loss.Sent-(wan-atWAN), lan-atLAN
	if loss.Lost < 0 {
		return fmt.Errorf("%d packets more came out than went in: something else sends", -loss.Lost)
	}
	return nil
}

// prepare makes the far ends known, and checks that both ways work as they
// must: a packet of the LAN comes out, and a stranger's does not.
func prepare() (e ends, err error) {
	if e.bridge, err = net.InterfaceByName("br-lan"); err != nil {
		return e, err
	}
	if e.wan, err = net.InterfaceByName("wan0"); err != nil {
		return e, err
	}
	for line := range strings.Lines(`neigh replace ` + wanGateway.String() + ` lladdr ` + farWAN.String() + ` dev wan0 nud permanent
		neigh replace ` + device.Addr().String() + ` lladdr ` + farLAN.String() + ` dev br-lan nud permanent`) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return e, fmt.Errorf("ip %s: %w: %s", strings.TrimSpace(line), err, out)
		}
	}
	return e, nil
}

// received is how many packets an interface had.
func received(name string) (int, error) {
	// Not below /sys: that shows the namespace of who mounted it.
	b, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		link, counters, ok := strings.Cut(line, ":")
		if w := strings.Fields(counters); ok && strings.TrimSpace(link) == name && len(w) > 1 {
			return strconv.Atoi(w[1])
		}
	}
	return 0, fmt.Errorf("no interface %s", name)
}
