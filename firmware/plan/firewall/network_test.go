package firewall_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/kernel/rtnl"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// hang bounds every wait; soon is how long silence has to last.
const (
	hang = 10 * time.Second
	soon = 300 * time.Millisecond
)

// network is pc (.10) and nas (.20) - br-lan rtr eth1 - wan, a server.
type network struct {
	t                 *testing.T
	rtr, pc, nas, wan *nettest.NS
	l                 *loader
	s                 *settings.Settings
	facts             facts.Facts
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	nettest.Need(t, "nft")
	n := &network{t: t, rtr: nettest.New(t), pc: nettest.New(t), nas: nettest.New(t), wan: nettest.New(t), s: settings.Default()}
	n.rtr.Run(t, "ip link add br-lan type bridge\nip link set br-lan up\nip addr add 192.168.1.1/24 dev br-lan")
	for port, host := range map[string]*nettest.NS{"p1": n.pc, "p2": n.nas} {
		nettest.Veth(t, n.rtr, port, host, "eth0")
		n.rtr.Run(t, "ip link set "+port+" master br-lan")
	}
	nettest.Veth(t, n.rtr, "eth1", n.wan, "eth0")
	n.rtr.Run(t, "ip addr add 203.0.113.2/24 dev eth1\nip route add default via 203.0.113.1")
	n.pc.Run(t, "ip addr add 192.168.1.10/24 dev eth0\nip route add default via 192.168.1.1")
	n.nas.Run(t, "ip addr add 192.168.1.20/24 dev eth0\nip route add default via 192.168.1.1")
	// The server knows a way into the LAN, as a hostile neighbour would.
	n.wan.Run(t, "ip addr add 203.0.113.1/24 dev eth0\nip addr add 198.51.100.1/32 dev lo\nip route add 192.168.1.0/24 via 203.0.113.2")
	n.rtr.Sysctl(t, "net/ipv4/ip_forward", "1")
	n.rtr.Sysctl(t, "net/ipv4/icmp_ratemask", "0")             // else one error a second and device
	n.rtr.TrySysctl("net/bridge/bridge-nf-call-iptables", "0") // as plan does
	for _, ns := range []*nettest.NS{n.rtr, n.wan} {
		// Forged packets must meet our rules, not the kernel's.
		for _, c := range []string{"all", "eth0", "eth1", "br-lan"} {
			if ns == n.rtr && c != "eth0" || ns == n.wan && c != "eth1" && c != "br-lan" {
				ns.Sysctl(t, "net/ipv4/conf/"+c+"/rp_filter", "0")
			}
		}
	}
	n.l = newLoader(t, n.rtr)
	n.set("")
	return n
}

// set changes settings and applies them, as a commit does: rules first, routing
// for what they cannot answer, then the connections that they end.
func (n *network) set(commands string) {
	n.t.Helper()
	old := n.s.Clone()
	configure(n.t, n.s, commands)
	n.apply()
	n.end(firewall.Ended(old, n.s, n.facts))
}

// informed changes what the router knows.
func (n *network) informed(f facts.Facts) {
	n.t.Helper()
	old := n.facts
	n.facts = f
	n.apply()
	n.end(passthrough.Outdated(n.s, old, f))
}

func (n *network) apply() {
	n.t.Helper()
	in := input(n.t, n.s, "")
	in.Facts = n.facts
	n.l.apply(n.t, in)
}

// end refuses by routing what the rules cannot answer, and ends connections.
func (n *network) end(ended []passthrough.Selector) {
	n.t.Helper()
	n.rtr.Do(func() {
		h, err := rtnl.New()
		if err != nil {
			n.t.Error(err)
			return
		}
		defer h.Close()
		for _, p := range [...]uint8{47, 50, 51, 115} {
			op := netstate.DeleteRule
			if _, ok := passthrough.Unanswered(n.s.Passthrough)[p]; ok {
				op = netstate.AddRule
			}
			for _, dev := range [...]string{"br-lan", "eth1"} {
				if err := h.Do(netstate.Change{Op: op, Rule: netstate.Rule{Iif: dev, Protocol: p}}); err != nil {
					n.t.Error(err)
				}
			}
		}
		c, err := conntrack.New()
		if err == nil && len(ended) > 0 {
			_, err = c.Delete(func(e *conntrack.Entry) bool {
				for _, s := range ended {
					if s.Picks(passthrough.Flow{Protocol: e.Protocol, Sport: e.Orig.SrcPort, Dport: e.Orig.DstPort, ReplySport: e.Reply.SrcPort,
						DNATed: e.DNATed(), Crossing: e.DNATed() || e.Reply.Dst != e.Orig.Src, Src: e.Orig.Src, ReplySrc: e.Reply.Src}) {
						return true
					}
				}
				return false
			})
		}
		if err != nil {
			n.t.Error(err)
		}
	})
}

// serve answers every connection with the address that it came from, then
// echoes; the channel has the server's ends.
func (n *network) serve(ns *nettest.NS, addr string) <-chan net.Conn {
	n.t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = net.Listen("tcp4", addr) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	ends := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			ends <- c
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%-16s", host)
				io.Copy(c, c)
			}()
		}
	}()
	return ends
}

func (n *network) dial(ns *nettest.NS, addr string, timeout time.Duration) (conn net.Conn, err error) {
	ns.Do(func() { conn, err = net.DialTimeout("tcp4", addr, timeout) })
	if err == nil {
		n.t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(hang))
	}
	return conn, err
}

// reach dials and returns the source address that the server sees.
func (n *network) reach(ns *nettest.NS, addr string) string {
	n.t.Helper()
	c, err := n.dial(ns, addr, hang)
	if err != nil {
		n.t.Errorf("%s: %v", addr, err)
		return ""
	}
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil {
		n.t.Errorf("%s: %v", addr, err)
	}
	return strings.TrimSpace(string(b))
}

// silent checks that nothing at all answers.
func (n *network) silent(ns *nettest.NS, addr string) {
	n.t.Helper()
	_, err := n.dial(ns, addr, soon)
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		n.t.Errorf("%s answers: %v", addr, err)
	}
}

// raw is a raw socket that hears and sends one IP protocol.
func (n *network) raw(ns *nettest.NS, protocol int) (fd int) {
	n.t.Helper()
	var err error
	ns.Do(func() {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol); err == nil {
			tv := unix.NsecToTimeval(hang.Nanoseconds())
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (n *network) send(fd int, dst string, payload []byte) {
	n.t.Helper()
	if err := unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(dst).As4()}); err != nil {
		n.t.Errorf("send to %s: %v", dst, err)
	}
}

// receive reads packets until one holds want, and returns its source; before
// tells what must not come first.
func (n *network) receive(fd int, want, not string) string {
	n.t.Helper()
	b := make([]byte, 2048)
	for {
		k, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			n.t.Errorf("no packet with %q: %v", want, err)
			return ""
		}
		if not != "" && bytes.Contains(b[:k], []byte(not)) {
			n.t.Errorf("a packet with %q got through", not)
		}
		if bytes.Contains(b[:k], []byte(want)) {
			return netip.AddrFrom4([4]byte(b[12:16])).String()
		}
	}
}

// prohibited reads ICMP until an admin-prohibited (RFC 1812 5.2.7.1) about this
// protocol comes.
func (n *network) prohibited(fd int, protocol byte) {
	n.t.Helper()
	b := make([]byte, 2048)
	for {
		k, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			n.t.Errorf("protocol %d: no ICMP admin-prohibited: %v", protocol, err)
			return
		}
		if p := b[20:k]; len(p) >= 28 && p[0] == 3 && p[1] == 13 && p[8+9] == protocol {
			return
		}
	}
}

// connections is the router's table.
func (n *network) connections() (out []conntrack.Entry) {
	n.t.Helper()
	var err error
	n.rtr.Do(func() {
		var c *conntrack.Conn
		if c, err = conntrack.New(); err == nil {
			err = c.Dump(func(e *conntrack.Entry) error { out = append(out, *e); return nil })
		}
	})
	if err != nil {
		n.t.Error(err)
	}
	return out
}

// udp sends to the server from the same port, as IKE and L2TP do: it must come
// there, or be refused.
func (n *network) udp(port int, want string) {
	n.t.Helper()
	var server net.PacketConn
	var conn net.Conn
	var err, err2 error
	n.wan.Do(func() { server, err = net.ListenPacket("udp4", fmt.Sprintf("198.51.100.1:%d", port)) })
	n.pc.Do(func() {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(192, 168, 1, 10), Port: port}}
		conn, err2 = d.Dial("udp4", fmt.Sprintf("198.51.100.1:%d", port))
	})
	if err := errors.Join(err, err2); err != nil {
		n.t.Fatal(err)
	}
	defer server.Close()
	defer conn.Close()
	conn.Write([]byte("hello"))
	if want == "refused" {
		conn.SetDeadline(time.Now().Add(hang))
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, unix.EHOSTUNREACH) {
			n.t.Errorf("udp %d: %v", port, err)
		}
		return
	}
	server.SetDeadline(time.Now().Add(hang))
	if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
		n.t.Errorf("udp %d: %v", port, err)
	}
}
