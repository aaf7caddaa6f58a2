package qemu

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// packet is what a capture tells of an IPv4 packet.
type packet struct {
	at       time.Time
	src, dst netip.Addr
	protocol uint8
	fragment bool
	ports    [2]uint16 // of UDP
	ike      string    // the initiator's SPI, of IKE between ports 500
	spi      uint32    // of ESP
	clear    bool      // IKE that is neither encrypted nor of IKE_SA_INIT
}

const (
	udp = 17
	esp = 50
)

// decode reads a frame from mac, or one to it; false when it is another, as those
// that a bridge floods.
func decode(f lab.Frame, mac [6]byte, from bool) (p packet, ok bool) {
	b := f.Data
	if len(b) < 34 || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
		return p, false
	}
	if from && [6]byte(b[6:12]) != mac || !from && [6]byte(b[:6]) != mac && b[0]&1 == 0 {
		return p, false
	}
	ip := b[14:]
	p = packet{
		at: f.At, src: netip.AddrFrom4([4]byte(ip[12:16])), dst: netip.AddrFrom4([4]byte(ip[16:20])), protocol: ip[9],
		fragment: binary.BigEndian.Uint16(ip[6:])&0x3fff != 0,
	}
	u := ip[4*int(ip[0]&15):]
	if p.protocol == esp && !p.fragment && len(u) >= 4 {
		p.spi = binary.BigEndian.Uint32(u)
	}
	if p.protocol != udp || p.fragment || len(u) < 8 {
		return p, true
	}
	p.ports = [2]uint16{binary.BigEndian.Uint16(u), binary.BigEndian.Uint16(u[2:])}
	if ike := u[8:]; p.ports == [2]uint16{500, 500} && len(ike) >= 28 {
		const initExchange, encrypted, encryptedFragment = 34, 46, 53 // RFC 7296 3.1, 3.2; RFC 7383 2.5
		p.ike = fmt.Sprintf("%x", ike[:8])
		p.clear = ike[18] != initExchange && ike[16] != encrypted && ike[16] != encryptedFragment
	}
	return p, true
}

// cable is what went over one device's cable.
type cable struct {
	host     *peers.Host
	out, in  []packet        // from the device, to it
	own      map[string]bool // initiators' SPIs that the device sent
	spis     map[uint32]bool // SPIs by which the server sends to the device
	esp, ike int             // what came from the server
}

var childSA = regexp.MustCompile(`ESP[^ =]*=>0x[0-9a-f]+ <0x([0-9a-f]+)`)

// learnSPIs finds the device's inbound SPIs in what libreswan logged.
func (k *cable) learnSPIs(log string) {
	for _, m := range childSA.FindAllStringSubmatch(log, -1) {
		if spi, err := strconv.ParseUint(m[1], 16, 32); err == nil {
			k.spis[uint32(spi)] = true
		}
	}
}

// watchCables captures on the cables of devices; the function it returns ends that.
func watchCables(t *testing.T, l *lab.Lab, hosts []*peers.Host) func() []*cable {
	t.Helper()
	var captures []*lab.Capture
	for _, h := range hosts {
		captures = append(captures, l.Capture(h))
	}
	return func() (all []*cable) {
		t.Helper()
		for i, c := range captures {
			var mac [6]byte
			if _, err := fmt.Sscanf(l.Sh(hosts[i], "cat /sys/class/net/eth0/address"), "%02x:%02x:%02x:%02x:%02x:%02x",
				&mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]); err != nil {
				t.Fatal(err)
			}
			k := &cable{host: hosts[i], own: map[string]bool{}, spis: map[uint32]bool{}}
			for _, f := range c.Stop() {
				if p, ok := decode(f, mac, true); ok {
					k.out = append(k.out, p)
				} else if p, ok := decode(f, mac, false); ok {
					k.in = append(k.in, p)
				}
			}
			all = append(all, k)
		}
		return all
	}
}

// onlyCopies wants that devices got nothing of a server but what is theirs and
// copies of what nobody can tell apart: ESP, and IKE of an SPI that no device had
// sent for a second. What nobody sends in the clear comes to nobody.
func onlyCopies(t *testing.T, all []*cable, server, inner netip.Addr) {
	t.Helper()
	// An answer in the clear, that an SPI is unknown, makes it nobody's own.
	first := map[string]time.Time{}
	for _, k := range all {
		for _, p := range k.out {
			if p.dst != server || p.ike == "" || p.clear {
				continue
			}
			k.own[p.ike] = true
			if at, ok := first[p.ike]; !ok || p.at.Before(at) {
				first[p.ike] = p.at
			}
		}
	}
	for _, k := range all {
		wrong := map[string]int{}
		copied, longest := 0, time.Duration(0)
		began := map[uint32]time.Time{}
		for _, p := range k.in {
			switch known, isKnown := first[p.ike]; {
			case p.src == inner:
				wrong[fmt.Sprintf("cleartext from inside the tunnel, protocol %d", p.protocol)]++
			case p.src != server:
			case p.protocol == esp && len(k.own) > 0:
				if k.esp++; k.spis[p.spi] {
					break
				}
				copied++
				if _, ok := began[p.spi]; !ok {
					began[p.spi] = p.at
				}
				longest = max(longest, p.at.Sub(began[p.spi]))
			case p.protocol == esp:
				wrong["ESP, without an IKE SA of its own"]++
			case p.ike == "":
				wrong[fmt.Sprintf("neither ESP nor IKE: protocol %d, ports %v, fragment %t", p.protocol, p.ports, p.fragment)]++
			case len(k.own) == 0:
				wrong["IKE, without an IKE SA of its own"]++
			case !k.own[p.ike] && isKnown && p.at.After(known.Add(time.Second)):
				wrong["IKE of another's SPI "+p.ike]++
			default:
				k.ike++
			}
		}
		for what, n := range wrong {
			t.Errorf("%s got %d packets that are not its own: %s", k.host.Name, n, what)
		}
		t.Logf("%s: %d IKE SAs, %d SPIs; from the server %d packets of ESP, %d of them copies of %d other SPIs for %.1f s at most, and %d of IKE",
			k.host.Name, len(k.own), len(k.spis), k.esp, copied, len(began), longest.Seconds(), k.ike)
	}
}
