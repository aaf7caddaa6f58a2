package linear_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
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
}

func newNetwork(t *testing.T) *network {
	nettest.Need(t, "nft")
	n := &network{t: t, rtr: nettest.New(t), pc: nettest.New(t), nas: nettest.New(t), wan: nettest.New(t)}
	n.rtr.Run(t, "ip link add br-lan type bridge\nip link set br-lan up\nip addr add 192.168.1.1/24 dev br-lan")
	for port, host := range map[string]*nettest.NS{"p1": n.pc, "p2": n.nas} {
		nettest.Veth(t, n.rtr, port, host, "eth0")
		n.rtr.Run(t, "ip link set "+port+" master br-lan")
	}
	nettest.Veth(t, n.rtr, "eth1", n.wan, "eth0")
	n.rtr.Run(t, "ip addr add 203.0.113.2/24 dev eth1\nip route add default via 203.0.113.1")
	n.pc.Run(t, "ip addr add 192.168.1.10/24 dev eth0\nip route add default via 192.168.1.1")
	n.nas.Run(t, "ip addr add 192.168.1.20/24 dev eth0\nip route add default via 192.168.1.1")
	// The server knows a way into the LAN: only rules are between.
	n.wan.Run(t, "ip addr add 203.0.113.1/24 dev eth0\nip addr add 198.51.100.1/32 dev lo\nip route add 192.168.1.0/24 via 203.0.113.2")
	n.rtr.Sysctl(t, "net/ipv4/ip_forward", "1")
	n.rtr.TrySysctl("net/bridge/bridge-nf-call-iptables", "0")
	n.serve(n.wan, "198.51.100.1:80", "198.51.100.1:23")
	n.serve(n.nas, "192.168.1.20:80", "192.168.1.20:9000", "192.168.1.20:8000")
	n.serve(n.rtr, "0.0.0.0:22", "0.0.0.0:81")
	return n
}

// serve answers, in TCP and in UDP, with the address that it hears from, and
// then echoes.
func (n *network) serve(ns *nettest.NS, addrs ...string) {
	n.t.Helper()
	for _, addr := range addrs {
		var l net.Listener
		var u net.PacketConn
		var err, err2 error
		ns.Do(func() {
			l, err = net.Listen("tcp4", addr)
			u, err2 = net.ListenPacket("udp4", addr)
		})
		if err := errors.Join(err, err2); err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { l.Close(); u.Close() })
		go echo(l)
		go func() {
			for b := make([]byte, 100); ; {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo([]byte(seen(from)), from)
			}
		}()
	}
}

func seen(from net.Addr) string {
	host, _, _ := net.SplitHostPort(from.String())
	return fmt.Sprintf("%-16s", host)
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.WriteString(c, seen(c.RemoteAddr()))
			io.Copy(c, c)
		}()
	}
}

// open dials and says what the server sees the client as.
func (n *network) open(ns *nettest.NS, network, addr string, timeout time.Duration) (conn net.Conn, outcome string) {
	var err error
	ns.Do(func() { conn, err = net.DialTimeout(network, addr, timeout) })
	if err == nil {
		n.t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(timeout))
		if network == "udp4" {
			conn.Write([]byte("hello"))
		}
		b := make([]byte, 16)
		if _, err = io.ReadFull(conn, b); err == nil {
			return conn, "seen as " + strings.TrimSpace(string(b))
		}
	}
	var timedOut net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return conn, "refused"
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return conn, "silence"
	}
	return conn, err.Error()
}

const commands = "set firewall offload off\nset firewall forward web port 8080\nset firewall forward web to 192.168.1.20\nset firewall forward web to-port 80\n" +
	"set firewall forward game protocol tcp+udp\nset firewall forward game port 9000\nset firewall forward game to 192.168.1.20"

// probes are what both have to treat alike, and how.
func (n *network) probes() map[string]string {
	got := map[string]string{}
	for _, p := range []struct {
		what          string
		from          *nettest.NS
		network, addr string
		quick         bool
	}{
		{what: "NAT out", from: n.pc, addr: "198.51.100.1:80"},
		{what: "NAT out, UDP", from: n.pc, network: "udp4", addr: "198.51.100.1:80"},
		{what: "forward", from: n.wan, addr: "203.0.113.2:8080"},
		{what: "forward, same port", from: n.wan, addr: "203.0.113.2:9000"},
		{what: "forward, UDP", from: n.wan, network: "udp4", addr: "203.0.113.2:9000"},
		{what: "forward from inside", from: n.pc, addr: "203.0.113.2:8080"},
		{what: "forward from inside, UDP", from: n.pc, network: "udp4", addr: "203.0.113.2:9000"},
		{what: "forward to oneself", from: n.nas, addr: "203.0.113.2:8080"},
		{what: "SSH from the LAN", from: n.pc, addr: "192.168.1.1:22"},
		{what: "closed port from the LAN", from: n.pc, addr: "192.168.1.1:81"},
		{what: "SSH from the WAN", from: n.wan, addr: "203.0.113.2:22", quick: true},
		{what: "closed port from the WAN", from: n.wan, addr: "203.0.113.2:81", quick: true},
		{what: "a device from the WAN", from: n.wan, addr: "192.168.1.20:8000", quick: true},
		{what: "a forward's device from the WAN", from: n.wan, addr: "192.168.1.20:80", quick: true},
	} {
		timeout, network := hang, p.network
		if p.quick {
			timeout = soon
		}
		if network == "" {
			network = "tcp4"
		}
		_, got[p.what] = n.open(p.from, network, p.addr, timeout)
	}
	return got
}

var alike = map[string]string{
	"NAT out":                         "seen as 203.0.113.2",
	"NAT out, UDP":                    "seen as 203.0.113.2",
	"forward":                         "seen as 203.0.113.1",
	"forward, same port":              "seen as 203.0.113.1",
	"forward, UDP":                    "seen as 203.0.113.1",
	"forward from inside":             "seen as 192.168.1.1",
	"forward from inside, UDP":        "seen as 192.168.1.1",
	"forward to oneself":              "seen as 192.168.1.1",
	"SSH from the LAN":                "seen as 192.168.1.10",
	"closed port from the LAN":        "refused",
	"SSH from the WAN":                "silence",
	"closed port from the WAN":        "silence",
	"a device from the WAN":           "silence",
	"a forward's device from the WAN": "silence",
}

// TestSameAsCulvert sends the same traffic through Culvert's rules and through
// the linear ones, and takes a connection from the one to the other.
func TestSameAsCulvert(t *testing.T) {
	n := newNetwork(t)
	in := input(t, commands)
	var err error
	n.rtr.Do(func() {
		c, table := nft.New(nft.Options{}), (*ruleset.Table)(nil)
		table, _ = firewall.Ruleset(in)
		var have *ruleset.Table
		if have, err = c.Observe(); err == nil {
			err = c.Apply(have, table)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(alike, n.probes()); d != "" {
		t.Errorf("Culvert (-want +got):\n%s", d)
	}
	inward, _ := n.open(n.wan, "tcp4", "203.0.113.2:8080", hang)
	outward, _ := n.open(n.pc, "tcp4", "198.51.100.1:80", hang)

	n.rtr.Run(t, "nft delete table inet culvert\nnft delete table ip culvert")
	n.load(policy(t, in))
	if d := cmp.Diff(alike, n.probes()); d != "" {
		t.Errorf("linear (-want +got):\n%s", d)
	}
	for what, c := range map[string]net.Conn{"inward": inward, "outward": outward} {
		c.SetDeadline(time.Now().Add(hang))
		c.Write([]byte("still there?"))
		if _, err := io.ReadFull(c, make([]byte, 12)); err != nil {
			t.Errorf("a connection %s does not outlive the change of rules: %v", what, err)
		}
	}
}

// TestRulesRefuse: a rule is for its own host and port alone.
func TestRulesRefuse(t *testing.T) {
	n := newNetwork(t)
	n.load(policy(t, input(t, "set firewall offload off"), append(linear.Rules(10), refused)...))
	if _, got := n.open(n.pc, "tcp4", "198.51.100.1:23", hang); got != "refused" {
		t.Errorf("what a rule refuses: %s", got)
	}
	if _, got := n.open(n.pc, "tcp4", "198.51.100.1:80", hang); got != "seen as 203.0.113.2" {
		t.Errorf("what no rule refuses: %s", got)
	}
}

// TestFloorAndPlain: the one translates and refuses nothing, the other does
// nothing.
func TestFloorAndPlain(t *testing.T) {
	n := newNetwork(t)
	for _, c := range []struct{ name, text, out string }{
		{"floor", linear.Floor("eth1").Text(), "seen as 203.0.113.2"},
		{"plain", linear.Plain().Text(), "seen as 192.168.1.10"},
	} {
		n.load(c.text)
		if _, got := n.open(n.pc, "tcp4", "198.51.100.1:80", hang); got != c.out {
			t.Errorf("%s, out: %s, want %s", c.name, got, c.out)
		}
		if _, got := n.open(n.wan, "tcp4", "192.168.1.20:8000", hang); got != "seen as 203.0.113.1" {
			t.Errorf("%s, in: %s", c.name, got)
		}
	}
}

func (n *network) load(text string) {
	n.t.Helper()
	if out, err := n.rtr.Output(text, "nft", "-f", "-"); err != nil {
		n.t.Fatalf("%v\n%.2000s", err, out)
	}
}
