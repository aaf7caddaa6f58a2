package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/culvert-fw/culvert/firmware/rawudp"
)

// homePort is the far end of the LAN's cable when the kernel's command line has bench.home: a device.
const homePort = "pc0"

func init() {
	add("startup", func(ctx context.Context, p struct{ Seconds int }) (any, error) { return watched.wait(ctx, p.Seconds) })
	add("idle-memory", func(ctx context.Context, p struct{ Seconds int }) (any, error) { return idleMemory(ctx, p.Seconds) })
}

// Startup is what it took until the router serves its LAN, from the moment before its init started.
type Startup struct {
	CPU     uint64            // ns that anything but this program ran
	Elapsed uint64            // ns
	When    map[string]uint64 // ns after which each service was there
	Tasks   map[string]uint64 // ns on the CPU of what still runs, by name, but for the least
}

// startup counts from the product's first instruction on.
type startup struct {
	began time.Time
	cpu   uint64 // ns
	done  chan struct{}
	Startup
	err error
}

var watched = startup{done: make(chan struct{})}

// services are what a LAN needs. Each asks once and does not wait long.
var services = []struct {
	name string
	ask  func() error
}{
	{"LAN", lanUp}, {"NAT", natIn}, {"DNS", dnsAnswers}, {"DHCP", dhcpAnswers},
}

// begin starts the count.
func (s *startup) begin() error {
	s.When, s.began = map[string]uint64{}, time.Now()
	var err error
	s.cpu, err = busy()
	go s.watch()
	return err
}

// watch asks in the order in which they come; what this program does meanwhile is not counted.
func (s *startup) watch() {
	defer close(s.done)
	for _, v := range services {
		var err error
		for {
			if err = v.ask(); err == nil {
				break
			}
			if time.Since(s.began) > 5*time.Minute {
				s.err = fmt.Errorf("%s: %w", v.name, err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		s.When[v.name] = uint64(time.Since(s.began))
	}
	now, err := busy()
	s.CPU, s.Elapsed, s.err = now-s.cpu, uint64(time.Since(s.began)), err
	s.Tasks = tasks()
}

// tasks are the threads that ran for a millisecond or more, summed by their process's name.
func tasks() map[string]uint64 {
	sum := map[string]uint64{}
	all, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, t := range all {
		name, err := os.ReadFile(filepath.Join(t, "comm"))
		ns, cerr := onCPU(t)
		if err == nil && cerr == nil {
			sum[strings.TrimSpace(string(name))] += ns
		}
	}
	maps.DeleteFunc(sum, func(_ string, ns uint64) bool { return ns < 1e6 })
	return sum
}

func (s *startup) wait(ctx context.Context, seconds int) (*Startup, error) {
	select {
	case <-s.done:
		return &s.Startup, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Duration(seconds) * time.Second):
		return nil, fmt.Errorf("not all of LAN, NAT, DNS and DHCP are there after %d s", seconds)
	}
}

// busy is how long the CPU has run anything but this program, in ns: rq_cpu_time of /proc/schedstat
// (Documentation/scheduler/sched-stats.rst) less the program's own.
func busy() (uint64, error) {
	b, err := os.ReadFile("/proc/schedstat")
	if err != nil {
		return 0, err
	}
	_, line, ok := strings.Cut(string(b), "\ncpu0 ")
	f := strings.Fields(line)
	const runTime = 6 // after the cpu's name
	if !ok || len(f) <= runTime {
		return 0, errors.New("/proc/schedstat has no cpu0")
	}
	all, err := strconv.ParseUint(f[runTime], 10, 64)
	if err != nil {
		return 0, err
	}
	own, err := ownCPU()
	return all - own, err
}

// ownCPU is how long this program's threads have run, in ns.
func ownCPU() (sum uint64, err error) {
	threads, err := filepath.Glob("/proc/self/task/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, t := range threads {
		ns, err := onCPU(t)
		if err != nil {
			return 0, err
		}
		sum += ns
	}
	return sum, nil
}

func lanUp() error {
	l, err := netlink.LinkByName("br-lan")
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err == nil && len(addrs) == 0 {
		err = errors.New("br-lan has no address")
	}
	return err
}

func natIn() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if ch.Type == nftables.ChainTypeNAT {
			return nil
		}
	}
	return errors.New("no chain translates")
}

// dnsAnswers asks the router for its own name.
func dnsAnswers() error {
	c := dns.Client{Timeout: 200 * time.Millisecond}
	m := new(dns.Msg).SetQuestion("culvert.lan.", dns.TypeA)
	r, _, err := c.Exchange(m, "192.168.1.1:53")
	if err == nil && len(r.Answer) == 0 {
		err = errors.New("no answer for culvert.lan")
	}
	return err
}

// dhcpAnswers asks for an address as a device would, and wants an offer.
func dhcpAnswers() error {
	conn, err := rawudp.Listen(homePort, dhcpv4.ClientPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	mac, _ := net.ParseMAC("02:00:00:00:00:64")
	d, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		return err
	}
	from, to := netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpv4.ClientPort), netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ServerPort)
	if err := conn.Send(d.ToBytes(), from, to, net.HardwareAddr(rawudp.Broadcast[:])); err != nil {
		return err
	}
	defer time.AfterFunc(time.Second, func() { conn.Close() }).Stop()
	for {
		p, _, err := conn.Receive()
		if err != nil {
			return fmt.Errorf("no offer: %w", err)
		}
		if a, err := dhcpv4.FromBytes(p.Payload); err == nil && a.TransactionID == d.TransactionID && a.MessageType() == dhcpv4.MessageTypeOffer {
			return nil
		}
	}
}

// idleMemory is AnonPages of /proc/meminfo without this program's, in bytes, once nothing has
// happened for a while.
func idleMemory(ctx context.Context, seconds int) (uint64, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(time.Duration(seconds) * time.Second):
	}
	all, err := field("/proc/meminfo", "AnonPages:")
	if err != nil {
		return 0, err
	}
	own, err := field("/proc/self/status", "RssAnon:")
	return (all - own) << 10, err
}

// field reads a line "NAME N kB".
func field(file, name string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), name)
	f := strings.Fields(rest)
	if !ok || len(f) == 0 {
		return 0, fmt.Errorf("%s has no %s", file, name)
	}
	return strconv.ParseUint(f[0], 10, 64)
}
