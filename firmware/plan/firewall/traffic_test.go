package firewall_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

func TestTraffic(t *testing.T) {
	n := newNetwork(t)
	n.serve(n.wan, "198.51.100.1:80")
	n.serve(n.nas, "192.168.1.20:8000")
	n.serve(n.rtr, "0.0.0.0:22")
	n.serve(n.rtr, "0.0.0.0:81")
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: source %q, want %q", what, got, want)
		}
	}
	check("NAT out", n.reach(n.pc, "198.51.100.1:80"), "203.0.113.2")
	check("SSH from the LAN", n.reach(n.pc, "192.168.1.1:22"), "192.168.1.10")
	if _, err := n.dial(n.pc, "192.168.1.1:81", hang); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port of the router, from the LAN: %v", err)
	}
	for _, addr := range []string{"203.0.113.2:22", "203.0.113.2:81", "192.168.1.1:22", "192.168.1.20:8000", "203.0.113.2:8080"} {
		n.silent(n.wan, addr)
	}
	n.set("set firewall forward web port 8080\nset firewall forward web to 192.168.1.20\nset firewall forward web to-port 8000")
	check("port forward", n.reach(n.wan, "203.0.113.2:8080"), "203.0.113.1")
	check("port forward from inside", n.reach(n.pc, "203.0.113.2:8080"), "192.168.1.1")
	check("port forward to oneself", n.reach(n.nas, "203.0.113.2:8080"), "192.168.1.1")
	n.silent(n.wan, "192.168.1.20:8000")
	if _, err := n.dial(n.pc, "192.168.1.1:8080", hang); err == nil {
		t.Error("the LAN address is forwarded too")
	}
	conn, err := n.dial(n.wan, "203.0.113.2:8080", hang)
	if err != nil {
		t.Fatal(err)
	}
	n.set("delete firewall forward web")
	conn.SetDeadline(time.Now().Add(soon))
	conn.Write([]byte("still there?"))
	if k, _ := io.ReadFull(conn, make([]byte, 16+12)); k > 16 {
		t.Error("a connection outlives its port forward")
	}
	n.silent(n.wan, "203.0.113.2:8080")
	n.set("set ssh wan on")
	check("SSH from the WAN", n.reach(n.wan, "203.0.113.2:22"), "203.0.113.1")
}

func TestSpoofing(t *testing.T) {
	n := newNetwork(t)
	const protocol = 253 // for experiments, RFC 3692
	forged := func(fd int, src, dst string) {
		t.Helper()
		h := make([]byte, 20, 40)
		h[0], h[8], h[9] = 0x45, 64, protocol
		copy(h[12:], netip.MustParseAddr(src).AsSlice())
		copy(h[16:], netip.MustParseAddr(dst).AsSlice())
		n.send(fd, dst, append(h, "forged"...))
	}
	pc, wan := n.raw(n.pc, unix.IPPROTO_RAW), n.raw(n.wan, protocol)
	forged(pc, "10.99.0.1", "198.51.100.1")
	forged(pc, "203.0.113.77", "198.51.100.1")
	n.send(n.raw(n.pc, protocol), "198.51.100.1", []byte("honest"))
	if src := n.receive(wan, "honest", "forged"); src != "203.0.113.2" {
		t.Errorf("source %s", src)
	}
	// From the WAN with a LAN source, to the router: a socket there hears
	// what its input accepts; lo proves that it hears.
	router := n.raw(n.rtr, protocol)
	forged(n.raw(n.wan, unix.IPPROTO_RAW), "192.168.1.10", "203.0.113.2")
	n.dial(n.pc, "192.168.1.1:22", hang) // behind it in the queue, whatever it answers
	n.send(n.raw(n.rtr, protocol), "127.0.0.1", []byte("honest"))
	n.receive(router, "honest", "forged")
	// A port forward is for the Internet, not for who pretends to be inside.
	n.set("set firewall forward game protocol udp\nset firewall forward game port 9000\nset firewall forward game to 192.168.1.20")
	nas := n.raw(n.nas, unix.IPPROTO_UDP)
	udp := func(src, mark string) {
		h := append([]byte{0x45, 0, 0, 34, 0, 0, 0, 0, 64, 17, 0, 0}, netip.MustParseAddr(src).AsSlice()...)
		h = append(h, 203, 0, 113, 2, 0x23, 0x28, 0x23, 0x28, 0, 14, 0, 0)
		n.send(n.raw(n.wan, unix.IPPROTO_RAW), "203.0.113.2", append(h, mark...))
	}
	udp("192.168.1.10", "forged")
	udp("203.0.113.1", "honest")
	n.receive(nas, "honest", "forged")
}

func TestPing(t *testing.T) {
	n := newNetwork(t)
	echo := func(ns *nettest.NS, dst, mark string) int {
		fd := n.raw(ns, unix.IPPROTO_ICMP)
		p := append([]byte{8, 0, 0, 0, 1, 1, 0, 1}, mark...)
		var sum uint32
		for i := 0; i+1 < len(p); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(p[i:]))
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(p[2:], ^uint16(sum))
		n.send(fd, dst, p)
		return fd
	}
	n.receive(echo(n.pc, "192.168.1.1", "lan ping"), "lan ping", "")
	n.receive(echo(n.pc, "198.51.100.1", "out ping"), "out ping", "")
	quiet := echo(n.wan, "203.0.113.2", "wan ping")
	n.set("set firewall wan-ping on")
	n.receive(echo(n.wan, "203.0.113.2", "now it may"), "now it may", "")
	n.receive(quiet, "now it may", "wan ping")
}

// TestPassthroughSwitches: off refuses the whole protocol with ICMP, running
// sessions too; on lets it through.
func TestPassthroughSwitches(t *testing.T) {
	n := newNetwork(t)
	n.serve(n.wan, "198.51.100.1:1723")
	n.serve(n.wan, "198.51.100.1:80")
	nas := n.serve(n.nas, "192.168.1.20:1723")
	n.set("set firewall forward vpn port 4723\nset firewall forward vpn to 192.168.1.20\nset firewall forward vpn to-port 1723")
	for _, p := range []struct {
		name      string
		tcp, udp  []int
		protocols []int
	}{{"pptp", []int{1723}, nil, []int{47}}, {"l2tp", nil, []int{1701}, []int{115}}, {"ipsec", nil, []int{500, 4500}, []int{50, 51}}} {
		t.Run(p.name, func(t *testing.T) {
			n.t = t
			icmp := n.raw(n.pc, unix.IPPROTO_ICMP)
			wanICMP := n.raw(n.wan, unix.IPPROTO_ICMP)
			through := func() {
				t.Helper()
				for _, port := range p.tcp {
					n.reach(n.pc, fmt.Sprintf("198.51.100.1:%d", port))
					n.reach(n.wan, "203.0.113.2:4723")
				}
				for _, port := range p.udp {
					n.udp(port, "")
				}
				for _, proto := range p.protocols {
					if proto == unix.IPPROTO_AH { // never passes, see TestAH
						continue
					}
					hear := n.raw(n.wan, proto)
					n.send(n.raw(n.pc, proto), "198.51.100.1", []byte("\x00\x00\x08\x00payload."))
					n.receive(hear, "payload", "")
				}
			}
			through()
			var inside, outside, server net.Conn
			if p.tcp != nil {
				inside, _ = n.dial(n.pc, "198.51.100.1:1723", hang)
				outside, _ = n.dial(n.wan, "203.0.113.2:4723", hang)
				for range 2 { // the first one is that of through
					server = <-nas
				}
			}
			nasICMP := n.raw(n.nas, unix.IPPROTO_ICMP)
			n.set("set passthrough " + p.name + " off")
			for _, port := range p.tcp {
				if _, err := n.dial(n.pc, fmt.Sprintf("198.51.100.1:%d", port), hang); !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("tcp %d: %v", port, err)
				}
				if _, err := n.dial(n.wan, "203.0.113.2:4723", hang); !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("port forward: %v", err)
				}
				n.prohibited(icmp, 6)
				n.prohibited(wanICMP, 6)
				// What ran is refused from both ends.
				inside.Write([]byte("more"))
				n.prohibited(icmp, 6)
				server.Write([]byte("more"))
				n.prohibited(nasICMP, 6)
				outside.Write([]byte("more"))
			}
			for _, port := range p.udp {
				n.udp(port, "refused")
				n.prohibited(icmp, 17)
			}
			for _, proto := range p.protocols {
				n.send(n.raw(n.pc, proto), "198.51.100.1", []byte("\x00\x00\x08\x00payload."))
				n.prohibited(icmp, byte(proto))
			}
			n.reach(n.pc, "198.51.100.1:80") // nothing else is refused
			// Offloaded flows never meet the rules: no connection must be left.
			for _, e := range n.connections() {
				if slices.Contains(p.protocols, int(e.Protocol)) || slices.Contains(append(p.tcp, p.udp...), int(e.Reply.SrcPort)) {
					t.Errorf("a connection is left: %+v", e)
				}
			}
			n.set("set passthrough " + p.name + " on")
			through()
		})
	}
}

// TestHelper: PPTP's control connections have the helper, whatever their
// external port, and nothing else has.
func TestHelper(t *testing.T) {
	n := newNetwork(t)
	n.serve(n.wan, "198.51.100.1:1723")
	n.serve(n.wan, "198.51.100.1:80")
	n.serve(n.nas, "192.168.1.20:1723")
	n.serve(n.nas, "192.168.1.20:80")
	n.serve(n.rtr, "0.0.0.0:22")
	n.set(`set firewall forward vpn port 4723
		set firewall forward vpn to 192.168.1.20
		set firewall forward vpn to-port 1723
		set firewall forward web port 80
		set firewall forward web to 192.168.1.20`)
	n.reach(n.pc, "198.51.100.1:1723")
	n.reach(n.pc, "198.51.100.1:80")
	n.reach(n.wan, "203.0.113.2:4723")
	n.reach(n.wan, "203.0.113.2:80")
	n.reach(n.pc, "192.168.1.1:22")
	var got []string
	for _, e := range n.connections() {
		if e.Protocol == 6 {
			got = append(got, fmt.Sprintf("%s>%d %s", e.Orig.Src, e.Orig.DstPort, e.Helper))
		}
	}
	slices.Sort(got)
	want := []string{"192.168.1.10>1723 pptp", "192.168.1.10>22 ", "192.168.1.10>80 ", "203.0.113.1>4723 pptp", "203.0.113.1>80 "}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestMSS: a narrow WAN lowers the MSS of both ends, so that no path MTU
// discovery is needed.
func TestMSS(t *testing.T) {
	n := newNetwork(t)
	n.rtr.Run(t, "ip link set eth1 mtu 1300")
	var l net.Listener
	var err error
	n.wan.Do(func() { l, err = net.Listen("tcp4", "198.51.100.1:80") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := n.dial(n.pc, "198.51.100.1:80", hang)
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for name, c := range map[string]net.Conn{"client": out, "server": in} {
		rc, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		rc.Control(func(fd uintptr) {
			if mss, err := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_MAXSEG); err != nil || mss > 1260 {
				t.Errorf("%s: MSS %d, %v; at most 1260 fits", name, mss, err)
			}
		})
	}
}
