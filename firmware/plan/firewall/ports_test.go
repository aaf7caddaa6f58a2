package firewall_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// TestPPTPPort: a device's PPTP to a server at a control port of its own. The
// helper reads the call there, and lets in its GRE and nobody else's.
func TestPPTPPort(t *testing.T) {
	n := newNetwork(t)
	const addr = server + ":1724"
	var l net.Listener
	var err error
	n.wan.Do(func() { l, err = net.Listen("tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	atServer, atClient := n.raw(n.wan, unix.IPPROTO_GRE), n.raw(n.pc, unix.IPPROTO_GRE)
	if err := unix.Bind(atServer, &unix.SockaddrInet4{Addr: netip.MustParseAddr(server).As4()}); err != nil {
		t.Fatal(err)
	}
	const clientCall, serverCall = 100, 200
	// call opens one and returns the ID that the server knows the device's by.
	call := func() uint16 {
		client, err := n.dial(n.pc, addr, hang)
		if err != nil {
			t.Fatal(err)
		}
		srv, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { srv.Close() })
		say := func(from, to net.Conn, msg []byte) []byte {
			got := make([]byte, len(msg))
			if _, err := from.Write(msg); err == nil {
				if _, err = io.ReadFull(to, got); err == nil {
					return got
				}
			}
			t.Fatal("the control connection does not carry a message")
			return nil
		}
		say(client, srv, control(1, 156, uint16(0x100)))
		say(srv, client, control(2, 156, uint16(0x100), uint8(1)))
		seen := binary.BigEndian.Uint16(say(client, srv, control(7, 168, uint16(clientCall)))[12:])
		say(srv, client, control(8, 32, uint16(serverCall), seen, uint8(1)))
		return seen
	}
	n.send(atServer, wanIP, data(call(), "without a helper"))
	n.set("set passthrough pptp ports 1723 1724")
	seen := call()
	n.send(atServer, wanIP, data(seen, "to the device"))
	if src := n.receive(atClient, "to the device", "without a helper"); src != server {
		t.Errorf("GRE from %s", src)
	}
	n.send(atClient, server, data(serverCall, "to the server"))
	if src := n.receive(atServer, "to the server", ""); src != wanIP {
		t.Errorf("GRE to the server from %s", src)
	}

	n.set("set passthrough pptp off")
	for _, port := range []string{":1723", ":1724"} {
		if _, err := n.dial(n.pc, server+port, hang); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("%s while PPTP is off: %v", port, err)
		}
	}
}

// TestPorts: helper, switch and lists hold at each port that was chosen, and
// only there.
func TestPorts(t *testing.T) {
	n := newNetwork(t)
	helped := func(want ...string) {
		t.Helper()
		for _, e := range []string{"tcp 1723 pptp", "tcp 1724 pptp", "tcp 1725 pptp"} {
			if slices.Contains(n.entries(), e) != slices.Contains(want, e) {
				t.Errorf("%s: %v", e, !slices.Contains(want, e))
			}
		}
	}
	for _, port := range []string{":1723", ":1724", ":1725"} {
		n.serve(n.nas, nasIP+port)
	}
	n.set("set passthrough pptp ports 1723 1724\nset firewall forward a port 4724 to " + nasIP + " to-port 1724\nset firewall forward b port 4725 to " + nasIP + " to-port 1725")
	n.reach(n.wan, wanIP+":4724")
	n.reach(n.wan, wanIP+":4725")
	helped("tcp 1724 pptp")
	n.set("set passthrough pptp ports 1724 1725")
	n.reach(n.wan, wanIP+":4725")
	helped("tcp 1724 pptp", "tcp 1725 pptp")
	n.set("set passthrough pptp off")
	for port, refused := range map[string]bool{":4724": true, ":4725": true} {
		if _, err := n.dial(n.wan, wanIP+port, hang); errors.Is(err, unix.EHOSTUNREACH) != refused {
			t.Errorf("%s: %v", port, err)
		}
	}

	n.set("set passthrough l2tp ports 1701 1702\nset passthrough ipsec ports 4501")
	for _, port := range []int{1701, 1702, 4501, 1703, 4502} {
		n.mirror(n.wan, server+":"+strconv.Itoa(port))
	}
	const free, refused = "", "refused"
	ask := func(ns *nettest.NS, what string, want map[int]string) {
		t.Helper()
		for port, want := range want {
			if got := mirrored(n.flow(ns, server+":"+strconv.Itoa(port)), []byte("hello")); got != want {
				t.Errorf("%s: udp %d: %q, want %q", what, port, got, want)
			}
		}
	}
	ask(n.pc, "on", map[int]string{1701: free, 1702: free, 4501: free, 1703: free, 4502: free})
	n.set("set passthrough l2tp off")
	ask(n.pc, "l2tp off", map[int]string{1701: refused, 1702: refused, 4501: free, 1703: free})
	n.set("set passthrough l2tp on\nset passthrough l2tp devices " + nasIP + "\nset passthrough ipsec off")
	ask(n.pc, "l2tp for the nas, ipsec off", map[int]string{1701: refused, 1702: refused, 4501: refused, 1703: free, 4502: free})
	ask(n.nas, "l2tp for the nas, ipsec off", map[int]string{1701: free, 1702: free, 4501: refused})
}
