package firewall_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// The load: devices with SPIs to one server, and with others to a server of
// their own, 4000 SPIs in all.
const (
	loadDevices = 64
	loadShared  = 8  // SPIs of each to the shared server
	loadOwn     = 54 // and to its own; the rest of the 4000 is another device's
	loadRest    = 4000 - loadDevices*(loadShared+loadOwn)
)

// counted reads ESP and counts it by source and SPI.
type counted struct {
	mu   sync.Mutex
	got  map[string]map[uint32]int
	seen int
}

func count(c net.PacketConn) *counted {
	k := &counted{got: map[string]map[uint32]int{}}
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			k.mu.Lock()
			if k.got[from.String()] == nil {
				k.got[from.String()] = map[uint32]int{}
			}
			if n >= 4 {
				k.got[from.String()][binary.BigEndian.Uint32(b)]++
			}
			k.seen++
			k.mu.Unlock()
		}
	}()
	return k
}

// until waits for that many packets.
func (k *counted) until(t *testing.T, who string, want int) {
	t.Helper()
	for deadline := time.Now().Add(hang); ; time.Sleep(time.Millisecond) {
		k.mu.Lock()
		seen := k.seen
		k.mu.Unlock()
		if seen == want {
			return
		}
		if seen > want || time.Now().After(deadline) {
			t.Fatalf("%s got %d packets, want %d", who, seen, want)
		}
	}
}

// from is the SPIs of a source, each of which has to have come once.
func (k *counted) from(t *testing.T, who, source string, spis ...uint32) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.got[source]) != len(spis) {
		t.Errorf("%s got %d SPIs of %s, want %d", who, len(k.got[source]), source, len(spis))
	}
	for _, spi := range spis {
		if n := k.got[source][spi]; n != 1 {
			t.Errorf("%s got SPI %#x of %s %d times, want once", who, spi, source, n)
		}
	}
}

func spis(first uint32, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = first + uint32(i)
	}
	return out
}

// TestLoad: 64 devices with 8 SPIs each to one server, and 4000 SPIs in all:
// everybody gets all that is theirs, and of servers that they don't talk to
// nothing.
func TestLoad(t *testing.T) {
	n := newNetwork(t)
	var aliases, addresses strings.Builder
	device := func(i int) string { return fmt.Sprintf("192.168.1.%d", 100+i) }
	own := func(i int) string { return fmt.Sprintf("198.51.101.%d", i) }
	for i := range loadDevices {
		fmt.Fprintf(&aliases, "ip addr add %s/24 dev eth0\n", device(i))
	}
	for i := range loadDevices + 1 {
		fmt.Fprintf(&addresses, "ip addr add %s/32 dev lo\n", own(i))
	}
	n.pc.Run(t, aliases.String())
	n.wan.Run(t, addresses.String())
	in := input(t, n.s, "")
	a := facts.Association{Server: netip.MustParseAddr(server)}
	var associations []ruleset.Element
	for i := range loadDevices {
		d := netip.MustParseAddr(device(i))
		a.Devices = append(a.Devices, d)
		associations = append(associations, ruleset.Element{Key: ruleset.Cat(ruleset.Addr(a.Server), ruleset.Addr(d))})
	}
	in.Shared = []facts.Association{a}
	n.l.apply(t, in)
	var err error
	n.rtr.Do(func() {
		c := nft.New(nft.Options{})
		err = c.Learn(passthrough.LearnedSet(passthrough.Assocs), associations...)
		if err == nil {
			err = c.Learn(passthrough.LearnedSet("servers"), ruleset.Element{Key: ruleset.Addr(a.Server)})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := newEnd(t, n.wan, "server", server)
	var ends, servers []*end
	var gets, serves []*counted
	for i := range loadDevices {
		ends = append(ends, newEnd(t, n.pc, device(i), device(i)))
	}
	ends = append(ends, newEnd(t, n.nas, "nas", nasIP))
	for i, e := range ends {
		servers = append(servers, newEnd(t, n.wan, own(i), own(i)))
		gets, serves = append(gets, count(e.esp)), append(serves, count(servers[i].esp))
	}
	shared := count(srv.esp)
	part := func(i int) int {
		if i == loadDevices {
			return loadRest
		}
		return loadOwn
	}

	// Out.
	for i, e := range ends {
		for _, spi := range spis(uint32(i)<<8, part(i)) {
			e.send(e.esp, own(i), espPacket(spi, 20))
		}
		serves[i].until(t, own(i), part(i))
		if i < loadDevices {
			for _, spi := range spis(uint32(0x10000+i<<8), loadShared) {
				e.send(e.esp, server, espPacket(spi, 20))
			}
			shared.until(t, "the server", (i+1)*loadShared)
		}
	}
	if k := len(n.learned(passthrough.Outbound)); k != 4000 {
		t.Errorf("%d outbound SPIs, want 4000", k)
	}
	// In: of the own server each, then of the shared one.
	for i, s := range servers {
		for _, spi := range spis(uint32(0x20000+i<<8), part(i)) {
			s.send(s.esp, wanIP, espPacket(spi, 20))
		}
		gets[i].until(t, ends[i].name, part(i))
	}
	for k := range loadDevices * loadShared {
		srv.send(srv.esp, wanIP, espPacket(uint32(0x30000+k), 20))
		if k%16 == 15 {
			for i := range loadDevices {
				gets[i].until(t, ends[i].name, part(i)+k+1)
			}
		}
	}
	gets[loadDevices].until(t, "the device that is no client", loadRest)
	for i, e := range ends {
		gets[i].from(t, e.name, own(i), spis(uint32(0x20000+i<<8), part(i))...)
		if i < loadDevices { // its own among all, nobody else's
			gets[i].from(t, e.name, server, spis(0x30000, loadDevices*loadShared)...)
		}
		if len(gets[i].got) > 2 {
			t.Errorf("%s gets ESP of %d servers", e.name, len(gets[i].got))
		}
	}
}
