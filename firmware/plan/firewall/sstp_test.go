package firewall_test

import (
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// TestSSTP: its servers are refused and no other HTTPS, at once and when a
// session runs; to some devices, to all, and at the LAN's own server.
func TestSSTP(t *testing.T) {
	n := newNetwork(t)
	n.wan.Run(t, "ip addr add "+stranger+"/32 dev lo")
	const sstp, site = server + ":443", stranger + ":443"
	for _, addr := range []string{sstp, site, server + ":8443"} {
		n.serve(n.wan, addr)
	}
	n.serve(n.nas, nasIP+":443")
	n.set("set firewall vpn-server sstp to " + nasIP + " external-port 8443\nset passthrough sstp servers " + server)
	refused := func(ns *nettest.NS, addr string) {
		t.Helper()
		if _, err := n.dial(ns, addr, hang); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	open := func(ns *nettest.NS, addr string) net.Conn {
		t.Helper()
		c, err := n.dial(ns, addr, hang)
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 16))
		}
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		return c
	}
	goes := func(what string, c net.Conn) {
		t.Helper()
		b := make([]byte, 4)
		if _, err := c.Write([]byte("more")); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if _, err = io.ReadFull(c, b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// left counts the entries of a device at port 443 of a server.
	left := func(device, server string) (k int) {
		for _, e := range n.connections() {
			if e.Protocol == unix.IPPROTO_TCP && e.Reply.SrcPort == 443 && e.Orig.Src.String() == device && e.Reply.Src.String() == server {
				k++
			}
		}
		return k
	}
	pc, nas, web, called := open(n.pc, sstp), open(n.nas, sstp), open(n.pc, site), open(n.wan, wanIP+":8443")
	goes("named servers, for all", pc)

	n.set("set passthrough sstp devices " + nasIP)
	if k := left(pcIP, server); k != 0 {
		t.Errorf("%d sessions of a device that may not are left", k)
	}
	icmp := n.raw(n.pc, unix.IPPROTO_ICMP)
	pc.Write([]byte("more"))
	n.prohibited(icmp, unix.IPPROTO_TCP)
	refused(n.pc, sstp)
	n.reach(n.pc, server+":8443")
	goes("a device that may", nas)
	goes("another site", web)
	goes("the LAN's server", called)

	n.set("set passthrough sstp devices any\nset passthrough sstp off")
	if k := left(nasIP, server) + left("203.0.113.1", nasIP); k != 0 {
		t.Errorf("%d sessions are left", k)
	}
	refused(n.nas, sstp)
	refused(n.pc, sstp)
	refused(n.wan, wanIP+":8443")
	refused(n.pc, wanIP+":8443")
	goes("another site", web)
	n.reach(n.nas, site)

	n.set("set passthrough sstp on")
	n.reach(n.pc, sstp)
	n.reach(n.wan, wanIP+":8443")
}

// TestRefusedServers: a server on the LAN is refused with its protocol, to the
// Internet and to devices.
func TestRefusedServers(t *testing.T) {
	n := newNetwork(t)
	n.mirror(n.nas, nasIP+":51820")
	n.mirror(n.nas, nasIP+":1194")
	n.serve(n.nas, nasIP+":1194")
	n.set("set firewall vpn-server wireguard to " + nasIP + " external-port 443\nset firewall vpn-server openvpn to " + nasIP + " external-port 4194")
	initiation, other := handshakes()[0].b, []byte("hello")
	for _, off := range []bool{false, true} {
		want := ""
		if off {
			want = "refused"
			n.set("set passthrough wireguard off\nset passthrough openvpn off")
		}
		for name, ns := range map[string]*nettest.NS{"the Internet": n.wan, "a device": n.pc} {
			if got := mirrored(n.flow(ns, wanIP+":443"), initiation); got != want {
				t.Errorf("WireGuard from %s, off: %v: %q", name, off, got)
			}
			if got := mirrored(n.flow(ns, wanIP+":443"), other); got != "" {
				t.Errorf("other UDP from %s, off: %v: %q", name, off, got)
			}
			if got := mirrored(n.flow(ns, wanIP+":4194"), other); got != want {
				t.Errorf("OpenVPN from %s, off: %v: %q", name, off, got)
			}
			if _, err := n.dial(ns, wanIP+":4194", hang); errors.Is(err, unix.EHOSTUNREACH) != off {
				t.Errorf("OpenVPN over TCP from %s, off: %v: %v", name, off, err)
			}
		}
	}
}
