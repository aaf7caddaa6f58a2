package firewall_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/rtnl"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
)

const office = "10.20.0.5" // behind the tunnel of nas

// routes makes the router's routes those of the settings, as plan does.
func (n *network) routes() {
	n.t.Helper()
	subnets, problems := passthrough.Subnets(n.s, n.s.LAN.Address, netip.MustParsePrefix(wanIP+"/24"))
	if len(problems) > 0 {
		n.t.Fatal(problems)
	}
	n.rtr.Run(n.t, "ip route flush proto 67")
	n.rtr.Do(func() {
		h, err := rtnl.New()
		if err != nil {
			n.t.Error(err)
			return
		}
		defer h.Close()
		for _, s := range subnets {
			r := netstate.Route{Dst: s.Dst, Via: s.Via, Dev: "br-lan", Metric: 20, MTU: passthrough.TunnelMTU(1500), Protocol: netstate.RouteProtocol}
			if err := h.Do(netstate.Change{Op: netstate.AddRoute, Route: r}); err != nil {
				n.t.Error(err)
			}
		}
	})
}

// exchange sends and gets a good deal over TCP, and returns the largest segment
// that the server may send, and whose address it sees.
func (n *network) exchange(servers <-chan net.Conn, addr string) (mss int, from string) {
	n.t.Helper()
	c, err := n.dial(n.pc, addr, hang)
	if err != nil {
		n.t.Fatalf("%s: %v", addr, err)
	}
	srv := <-servers
	raw, err := srv.(*net.TCPConn).SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { mss, err = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_MAXSEG) })
	}
	if err != nil {
		n.t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go c.Write(sent)
	got := make([]byte, 16+len(sent)) // the server's greeting comes first
	if k, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got[16:], sent) {
		n.t.Errorf("%s: %d of %d bytes came back: %v", addr, k, len(got), err)
	}
	return mss, string(bytes.TrimSpace(got[:16]))
}

// TestSubnet: pc has no IPsec, nas has a tunnel to the office.
func TestSubnet(t *testing.T) {
	n := newNetwork(t)
	n.nas.Run(t, "ip addr add "+office+"/32 dev lo")
	n.wan.Run(t, "ip addr add "+office+"/32 dev lo")
	for _, c := range []string{"all", "br-lan"} {
		n.rtr.Sysctl(t, "net/ipv4/conf/"+c+"/send_redirects", "0") // as plan does
	}
	servers := n.serve(n.nas, office+":80")
	n.serve(n.wan, office+":80")
	redirects := n.raw(n.pc, unix.IPPROTO_ICMP)

	// Without the setting the office is somewhere in the Internet.
	if from := n.reach(n.pc, office+":80"); from != wanIP {
		t.Errorf("without a tunnel the office's address is seen from %q", from)
	}
	n.set("set passthrough ipsec subnet 10.20.0.0/16 via " + nasIP)
	n.routes()

	// A device that knows the router alone.
	mss, from := n.exchange(servers, office+":80")
	if want := passthrough.TunnelMTU(1500) - 40; mss > want {
		t.Errorf("the office may send segments of %d bytes, want at most %d", mss, want)
	}
	if from != pcIP {
		t.Errorf("the office sees %s, want %s", from, pcIP)
	}
	n.office(redirects)

	// One that took the route of option 121 sends to nas itself.
	n.pc.Run(t, "ip route add 10.20.0.0/16 via "+nasIP)
	n.rtr.Run(t, "ip route flush proto 67") // would be missed
	if _, from := n.exchange(servers, office+":80"); from != pcIP {
		t.Errorf("with a route of its own: the office sees %s, want %s", from, pcIP)
	}
	n.pc.Run(t, "ip route del 10.20.0.0/16")
	n.routes()

	// Nobody else comes through: not the Internet, not forged sources.
	n.wan.Run(t, "ip addr del "+office+"/32 dev lo\nip route add 10.20.0.0/16 via "+wanIP)
	n.silent(n.wan, office+":80")
	hear := n.raw(n.nas, 254)
	forged := ipv4(254, "10.99.0.1", office, []byte("forged"))
	n.send(n.raw(n.pc, unix.IPPROTO_RAW), office, forged)
	n.send(n.raw(n.pc, 254), office, []byte("honest"))
	n.receive(hear, "honest", "forged")

	// The switch for IPsec does not turn the office into a part of the Internet.
	n.set("set passthrough ipsec off")
	n.exchange(servers, office+":80")

	// Taken back, the office is unknown; a packet is not led into the LAN.
	n.set("delete passthrough ipsec subnet 10.20.0.0/16\nset passthrough ipsec on")
	n.silent(n.pc, office+":80")
	n.routes()
	n.wan.Run(t, "ip route del 10.20.0.0/16\nip addr add "+office+"/32 dev lo")
	if from := n.reach(n.pc, office+":80"); from != wanIP {
		t.Errorf("afterwards the office's address is seen from %q", from)
	}
}

// office checks what a device without a route gets of ICMP: a path MTU that
// fits into the tunnel, and no redirect; and that nothing is tracked.
func (n *network) office(icmp int) {
	n.t.Helper()
	b := make([]byte, 2048)
	tv := unix.NsecToTimeval(soon.Nanoseconds())
	if err := unix.SetsockoptTimeval(icmp, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		n.t.Fatal(err)
	}
	mtu := 0
	for end := time.Now().Add(hang); time.Now().Before(end); {
		k, _, err := unix.Recvfrom(icmp, b, 0)
		if err != nil {
			break
		}
		switch p := b[20:k]; {
		case p[0] == 5:
			n.t.Error("the router sends redirects")
		case p[0] == 3 && p[1] == 4:
			mtu = int(p[6])<<8 | int(p[7])
		}
	}
	for _, e := range n.connections() {
		if e.Orig.Dst.String() == office && e.Orig.Src.String() == pcIP && e.Reply.Dst.String() != wanIP {
			n.t.Errorf("conntrack has half a flow: %+v", e)
		}
	}
	if want := passthrough.TunnelMTU(1500); mtu != want {
		n.t.Errorf("a device that sends too much is told an MTU of %d, want %d", mtu, want)
	}
}

// TestTunnelMTU: what the worst algorithms make of a packet of that size still
// fits, and not of one that is larger.
func TestTunnelMTU(t *testing.T) {
	esp := func(inner int) int { return 20 + 8 + 8 + 16 + (inner+2+15)/16*16 + 32 }
	for mtu := 1280; mtu <= 1500; mtu++ {
		if got := passthrough.TunnelMTU(mtu); esp(got) > mtu || esp(got+1) <= mtu {
			t.Fatalf("%d bytes: %d inside make %d, one more %d", mtu, got, esp(got), esp(got+1))
		}
	}
}
