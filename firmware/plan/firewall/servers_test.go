package firewall_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

// serveUDP answers UDP at addr until the test ends; reply gets what came, and from
// which address.
func (n *network) serveUDP(ns *nettest.NS, addr string, reply func(host string, b []byte) []byte) {
	n.t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(func() { c, err = net.ListenPacket("udp4", addr) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			k, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			c.WriteTo(reply(host, b[:k]), from)
		}
	}()
}

// answer serves UDP at addr: it sends back what it gets, behind the source's
// address.
func (n *network) answer(ns *nettest.NS, addr string) {
	n.t.Helper()
	n.serveUDP(ns, addr, func(host string, b []byte) []byte { return []byte(host + " " + string(b)) })
}

// ask sends to addr and returns what comes back within the time.
func (n *network) ask(ns *nettest.NS, addr string, wait time.Duration) string {
	n.t.Helper()
	c := n.flow(ns, addr)
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("hello")); err != nil {
		n.t.Fatal(err)
	}
	b := make([]byte, 100)
	k, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:k])
}

// TestVPNServers: each server is reached from the Internet and from inside, by
// one setting, and by nobody once it is gone.
func TestVPNServers(t *testing.T) {
	n := newNetwork(t)
	for _, c := range []struct {
		name, external string
		tcp, udp       []int // the server's ports
		port           int   // on the WAN address; 0: the same
	}{
		{name: "pptp", tcp: []int{1723}},
		{name: "pptp", external: " external-port 4723", tcp: []int{1723}, port: 4723},
		{name: "l2tp", udp: []int{1701}},
		{name: "openvpn", tcp: []int{1194}, udp: []int{1194}},
		{name: "wireguard", external: " external-port 443", udp: []int{51820}, port: 443},
		{name: "sstp", tcp: []int{443}},
		{name: "ipsec", udp: []int{4500}},
	} {
		t.Run(c.name+c.external, func(t *testing.T) {
			n.t = t
			wan := func(port int) string {
				if c.port != 0 {
					port = c.port
				}
				return fmt.Sprintf("%s:%d", wanIP, port)
			}
			for _, port := range c.tcp {
				n.serve(n.nas, fmt.Sprintf("%s:%d", nasIP, port))
				n.silent(n.wan, wan(port))
			}
			for _, port := range c.udp {
				n.answer(n.nas, fmt.Sprintf("%s:%d", nasIP, port))
				if got := n.ask(n.wan, wan(port), soon); got != "" {
					t.Errorf("udp %d answers without the setting: %q", port, got)
				}
			}
			n.set("set firewall vpn-server " + c.name + " to " + nasIP + c.external)
			var running net.Conn
			for _, port := range c.tcp {
				if src := n.reach(n.wan, wan(port)); src != "203.0.113.1" {
					t.Errorf("tcp %d from the Internet: source %q", port, src)
				}
				if src := n.reach(n.pc, wan(port)); src != "192.168.1.1" {
					t.Errorf("tcp %d from inside: source %q", port, src)
				}
				var err error
				if running, err = n.dial(n.wan, wan(port), hang); err != nil {
					t.Fatal(err)
				}
			}
			for _, port := range c.udp {
				if got := n.ask(n.wan, wan(port), hang); got != "203.0.113.1 hello" {
					t.Errorf("udp %d from the Internet: %q", port, got)
				}
				if got := n.ask(n.pc, wan(port), hang); got != "192.168.1.1 hello" {
					t.Errorf("udp %d from inside: %q", port, got)
				}
			}
			helped := slices.ContainsFunc(n.entries(), func(s string) bool { return s == "tcp 1723 pptp" })
			if helped != (c.name == "pptp") {
				t.Errorf("the PPTP helper: %v", helped)
			}
			n.set("delete firewall vpn-server " + c.name)
			for _, port := range c.tcp {
				n.silent(n.wan, wan(port))
				running.SetDeadline(time.Now().Add(soon))
				running.Read(make([]byte, 16)) // its greeting
				running.Write([]byte("more"))
				var ne net.Error
				if _, err := running.Read(make([]byte, 4)); !errors.As(err, &ne) || !ne.Timeout() {
					t.Errorf("tcp %d: a connection outlives its server: %v", port, err)
				}
			}
			for _, port := range c.udp {
				if got := n.ask(n.wan, wan(port), soon); got != "" {
					t.Errorf("udp %d answers without the setting: %q", port, got)
				}
			}
		})
	}
}

// entries are the connections as "tcp PORT HELPER", by the port that the
// answers come from.
func (n *network) entries() (out []string) {
	n.t.Helper()
	for _, e := range n.connections() {
		out = append(out, fmt.Sprintf("%s %d %s", e.ProtocolName(), e.Reply.SrcPort, e.Helper))
	}
	return out
}

// TestIPsecServer: IKE from port 500 and ESP of peers that no device called go
// to the server and back, and nowhere without one.
func TestIPsecServer(t *testing.T) {
	n := newNetwork(t)
	const late = "198.51.100.3"
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo\nip addr add "+late+"/32 dev lo")
	pc, nas := newEnd(t, n.pc, "pc", pcIP), newEnd(t, n.nas, "nas", nasIP)
	peer, other, third := newEnd(t, n.wan, "peer", server), newEnd(t, n.wan, "other", stranger), newEnd(t, n.wan, "third", late)
	nowhere := func(e *end) {
		t.Helper()
		e.send(e.ike, wanIP, ikePacket(0x9999, 33, 34))
		e.send(e.esp, wanIP, espPacket(0x99, 100))
		for _, host := range []*end{pc, nas} {
			host.nothing(host.ike)
			host.nothing(host.esp)
		}
	}
	nowhere(peer)
	n.set("set firewall vpn-server ipsec to " + nasIP)

	// Two peers at once. Whoever asks and is answered teaches nothing yet.
	for i, p := range []*end{peer, other} {
		from, cookie := []string{server, stranger}[i], uint64(0x1111*(i+1))
		p.send(p.ike, wanIP, ikePacket(cookie, 33, 34))
		nas.gets(nas.ike, from, ikePacket(cookie, 33, 34))
		nas.send(nas.ike, from, ikePacket(cookie, 33, 34))
		p.gets(p.ike, wanIP, ikePacket(cookie, 33, 34))
		p.send(p.esp, wanIP, espPacket(uint32(0xb1+i), 4000)) // in fragments
		nas.gets(nas.esp, from, espPacket(uint32(0xb1+i), 4000))
	}
	if got := n.learned(passthrough.Assocs); len(got) != 0 {
		t.Errorf("an answer to a stranger is learned: %+v", got)
	}
	// What is encrypted for a peer is an association, as of any device.
	nas.send(nas.esp, server, espPacket(0xa1, 4000))
	peer.gets(peer.esp, wanIP, espPacket(0xa1, 4000))
	if got := n.learned(passthrough.Assocs); len(got) != 1 {
		t.Errorf("associations: %+v, want one", got)
	}
	for range 2 {
		peer.send(peer.esp, wanIP, espPacket(0xb1, 100))
		nas.gets(nas.esp, server, espPacket(0xb1, 100))
		peer.send(peer.ike, wanIP, ikePacket(0x1111, 46, 37))
		nas.gets(nas.ike, server, ikePacket(0x1111, 46, 37))
		nas.send(nas.ike, server, ikePacket(0x1111, 46, 37))
		peer.gets(peer.ike, wanIP, ikePacket(0x1111, 46, 37))
		other.send(other.ike, wanIP, ikePacket(0x2222, 46, 35))
		nas.gets(nas.ike, stranger, ikePacket(0x2222, 46, 35))
		nas.send(nas.ike, stranger, ikePacket(0x2222, 46, 35))
		other.gets(other.ike, wanIP, ikePacket(0x2222, 46, 35))
	}
	pc.nothing(pc.ike)
	pc.nothing(pc.esp)

	// A device that calls a server of its own is not disturbed.
	pc.send(pc.ike, late, ikePacket(0x3333, 33, 34))
	third.gets(third.ike, wanIP, ikePacket(0x3333, 33, 34))
	third.send(third.ike, wanIP, ikePacket(0x3333, 33, 34))
	pc.gets(pc.ike, late, ikePacket(0x3333, 33, 34))
	third.send(third.esp, wanIP, espPacket(0xb3, 100))
	pc.gets(pc.esp, late, espPacket(0xb3, 100))
	nas.nothing(nas.esp)

	// From inside, by the WAN's address.
	pc.send(pc.ike, wanIP, ikePacket(0x4444, 33, 34))
	nas.gets(nas.ike, "192.168.1.1", ikePacket(0x4444, 33, 34))
	nas.send(nas.ike, "192.168.1.1", ikePacket(0x4444, 33, 34))
	pc.gets(pc.ike, wanIP, ikePacket(0x4444, 33, 34))
	pc.send(pc.esp, wanIP, espPacket(0xa4, 100))
	nas.gets(nas.esp, "192.168.1.1", espPacket(0xa4, 100))
	nas.send(nas.esp, "192.168.1.1", espPacket(0xb4, 100))
	pc.gets(pc.esp, wanIP, espPacket(0xb4, 100))

	// Off is the whole protocol, servers too.
	n.set("set passthrough ipsec off")
	nowhere(other)
	n.set("set passthrough ipsec on")
	n.set("delete firewall vpn-server ipsec")
	nowhere(other)
}
