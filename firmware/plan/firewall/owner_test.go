package firewall_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nflog"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// owned is a network of two devices with a server whose bursts end when the
// test says so.
type owned struct {
	*network
	pc, nas, srv *end
	told         <-chan nflog.Packet
}

func newOwned(t *testing.T) *owned {
	n := newNetwork(t)
	o := &owned{network: n, pc: newEnd(t, n.pc, "pc", pcIP), nas: newEnd(t, n.nas, "nas", nasIP), srv: newEnd(t, n.wan, "server", server)}
	n.l.timeouts = map[string]time.Duration{}
	for _, s := range [...]string{"heard", "said", "sampled", "talking", "spent", "doubted"} {
		n.l.timeouts[s] = time.Hour
	}
	o.told = n.seconds()
	o.pc.send(o.pc.ike, server, ikePacket(0x1111, 33, 34))
	o.srv.gets(o.srv.ike, wanIP, ikePacket(0x1111, 33, 34))
	n.share(pcIP, nasIP)
	o.nas.send(o.nas.ike, server, ikePacket(0x2222, 33, 34))
	o.srv.gets(o.srv.ike, wanIP, ikePacket(0x2222, 33, 34))
	return o
}

// learn puts an element into a set of table ip, as netd does; unlearn removes it.
func (o *owned) learn(set string, data string, key ...ruleset.Key) {
	o.t.Helper()
	e := ruleset.Element{Key: ruleset.Cat(key...)}
	if data != "" {
		e.Data = ruleset.Addr(netip.MustParseAddr(data))
	}
	o.change(set, e, (*nft.Conn).Learn)
}

func (o *owned) unlearn(set string, key ...ruleset.Key) {
	o.t.Helper()
	o.change(set, ruleset.Element{Key: ruleset.Cat(key...)}, (*nft.Conn).Unlearn)
}

func (o *owned) change(set string, e ruleset.Element, how func(*nft.Conn, ruleset.Set, ...ruleset.Element) error) {
	o.t.Helper()
	var err error
	o.rtr.Do(func() { err = how(nft.New(nft.Options{}), passthrough.LearnedSet(set), e) })
	if err != nil {
		o.t.Fatal(err)
	}
}

func spiKey(spi uint32) ruleset.Key { return ruleset.Key(binary.BigEndian.AppendUint32(nil, spi)) }

var serverKey = ruleset.Addr(netip.MustParseAddr(server))

// from has the server send a packet; it is for these and nobody else.
func (o *owned) from(spi uint32, to ...*end) {
	o.t.Helper()
	o.srv.send(o.srv.esp, wanIP, espPacket(spi, 100))
	for _, e := range to {
		e.gets(e.esp, server, espPacket(spi, 100))
	}
	if len(to) == 1 {
		other := o.pc
		if to[0] == o.pc {
			other = o.nas
		}
		other.nothing(other.esp)
	}
}

func (o *owned) out(e *end, spi uint32) {
	o.t.Helper()
	e.send(e.esp, server, espPacket(spi, 100))
	o.srv.gets(o.srv.esp, wanIP, espPacket(spi, 100))
}

// burst wants netd to be told that one begins, and of nothing else.
func (o *owned) burst(prefix string, spi uint32) {
	o.t.Helper()
	select {
	case p := <-o.told:
		if p.Prefix != prefix || binary.BigEndian.Uint32(p.Data[20:]) != spi {
			o.t.Fatalf("netd is told %q of %x, want %q of %x", p.Prefix, p.Data[20:24], prefix, spi)
		}
	case <-time.After(hang):
		o.t.Fatalf("netd is not told that a burst of %x begins", spi)
	}
}

func (o *owned) quiet() {
	o.t.Helper()
	select {
	case p := <-o.told:
		o.t.Fatalf("netd is told %q of %x", p.Prefix, p.Data[20:24])
	case <-time.After(soon):
	}
}

// TestOwner: what is learned is believed only while nothing speaks against it.
func TestOwner(t *testing.T) {
	o := newOwned(t)
	both := []*end{o.pc, o.nas}

	// Unknown: to both, and netd is told once a burst.
	o.from(0xb2, both...)
	o.burst("in", 0xb2)
	o.from(0xb2, both...)
	o.out(o.nas, 0xa2)
	o.burst("out", 0xa2)
	o.out(o.nas, 0xa2)
	o.quiet()

	// And of samples of the streams, after a pause.
	o.unlearn("sampled", serverKey, spiKey(0xb2))
	o.from(0xb2, both...)
	o.burst("in+", 0xb2)
	o.unlearn("sampled", serverKey, spiKey(0xa2))
	o.out(o.nas, 0xa2)
	o.burst("out+", 0xa2)
	o.quiet()

	// Bound, in a burst, but the device that talks is not settled: it may be
	// missing something.
	o.learn(passthrough.Bound, nasIP, serverKey, spiKey(0xb2))
	o.from(0xb2, both...)
	o.learn(passthrough.Settled, "", serverKey, spiKey(0xa2))
	o.unlearn("doubted", serverKey)

	// All right now: two packets for each that the device sends.
	o.out(o.nas, 0xa2)
	for range 2 {
		o.from(0xb2, o.nas)
	}
	o.from(0xb2, both...)
	o.from(0xb2, both...)
	o.out(o.nas, 0xa2)
	o.from(0xb2, o.nas)

	// Who is not settled talks: all is copied.
	o.out(o.pc, 0xa1)
	o.burst("out", 0xa1)
	o.from(0xb2, both...)
	o.learn(passthrough.Settled, "", serverKey, spiKey(0xa1))
	o.unlearn("doubted", serverKey)
	o.from(0xb2, o.nas)

	// The next burst begins for both, and the device has to talk anew.
	o.unlearn("heard", serverKey, spiKey(0xb2))
	o.from(0xb2, both...)
	o.burst("in", 0xb2)
	o.from(0xb2, both...)
	o.out(o.nas, 0xa2)
	o.from(0xb2, o.nas)

	// An SPI that the device has beside the bound one is not.
	o.from(0xb3, both...)
	o.burst("in", 0xb3)

	// No longer bound: both at once.
	o.unlearn(passthrough.Bound, serverKey, spiKey(0xb2))
	o.from(0xb2, both...)
	o.quiet()

	// The ruleset is replaced: what is bound stays.
	o.learn(passthrough.Bound, nasIP, serverKey, spiKey(0xb2))
	o.out(o.nas, 0xa2)
	configure(t, o.s, "set firewall wan-ping on")
	o.applyShared(pcIP, nasIP)
	o.from(0xb2, o.nas)

	if c := o.learned(passthrough.Copies); len(c) != 1 || c[0].Packets < 9 {
		t.Errorf("copies are counted as %+v", c)
	}
}

// TestOwnerFull: a table that is full costs nobody a packet.
func TestOwnerFull(t *testing.T) {
	o := newOwned(t)
	size := passthrough.LearnedSet("heard").Size
	var fill strings.Builder
	for i := range size {
		fmt.Fprintf(&fill, "add element ip culvert heard { %s . 10.0.%d.%d timeout 1m }\n", server, i>>8, i&255)
	}
	if out, err := o.rtr.Output(fill.String(), "nft", "-f", "-"); err != nil {
		t.Fatal(err, out)
	}
	if n := len(o.learned("heard")); n < size*9/10 {
		t.Fatalf("%d SPIs are in heard, want it full of %d", n, size)
	}
	o.from(0xb2, o.pc, o.nas)
}

// TestCopyOff: a server is the device's that came first; the next one's IKE
// goes through conntrack, from another port.
func TestCopyOff(t *testing.T) {
	n := newNetwork(t)
	n.set("set passthrough ipsec copy off")
	pc, nas, srv := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP), newEnd(t, n.wan, "server", server)
	seconds := n.seconds()
	pc.send(pc.ike, server, ikePacket(0x1111, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x1111, 33, 34))
	n.applyShared(pcIP, nasIP) // as before it was off
	pc.send(pc.ike, server, ikePacket(0x1111, 33, 34))
	srv.gets(srv.ike, wanIP, ikePacket(0x1111, 33, 34))

	nas.send(nas.ike, server, ikePacket(0x2222, 33, 34))
	b := make([]byte, 100)
	srv.ike.SetReadDeadline(time.Now().Add(hang))
	size, from, err := srv.ike.ReadFrom(b)
	if err != nil || size != 28 || b[6] != 0x22 {
		t.Fatalf("of the second device the server got %x, %v", b[:size], err)
	}
	if from.String() == wanIP+":500" {
		t.Errorf("the second device's IKE came from port 500 too")
	}
	if _, err := srv.ike.WriteTo(ikePacket(0x2222, 33, 34), from); err != nil {
		t.Fatal(err)
	}
	nas.gets(nas.ike, server, ikePacket(0x2222, 33, 34))
	select {
	case p := <-seconds:
		t.Errorf("netd is told %q", p.Prefix)
	default:
	}
	srv.send(srv.esp, wanIP, espPacket(0xb1, 100))
	pc.gets(pc.esp, server, espPacket(0xb1, 100))
	nas.nothing(nas.esp)
}

// TestCopiesMetered: of a flood of SPIs in the name of a server of several
// devices only so much is copied to each; what is known comes through meanwhile.
func TestCopiesMetered(t *testing.T) {
	o := newOwned(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		for {
			select {
			case <-o.told:
			case <-ctx.Done():
				return
			}
		}
	}()
	o.from(0xb2, o.pc, o.nas) // learned
	const flood, step = 4000, 50
	got := map[*end]int{}
	for spi := uint32(0); spi < flood; spi += step {
		for i := range uint32(step) {
			o.srv.send(o.srv.esp, wanIP, espPacket(0x10000+spi+i, 8))
		}
		o.srv.send(o.srv.esp, wanIP, espPacket(0xb2, 9))
		for _, e := range []*end{o.pc, o.nas} {
			got[e] += e.until(espPacket(0xb2, 9))
		}
	}
	for e, n := range got {
		if n > flood/2 {
			t.Errorf("%s got %d of %d packets of a flood", e.name, n, flood)
		}
	}
}

// until reads ESP until this packet comes, and tells how many came before.
func (e *end) until(want []byte) (n int) {
	e.t.Helper()
	for b := make([]byte, 100); ; n++ {
		e.esp.SetReadDeadline(time.Now().Add(hang))
		k, _, err := e.esp.ReadFrom(b)
		if err != nil {
			e.t.Fatalf("%s did not get %x: %v", e.name, want, err)
		}
		if bytes.Equal(b[:k], want) {
			return n
		}
	}
}
