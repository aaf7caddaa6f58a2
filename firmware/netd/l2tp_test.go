package netd

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

// startRequest is an SCCRQ whose sender assigned a Tunnel ID.
func startRequest(id uint16) []byte {
	return append([]byte{0xc8, 2, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 8, 0, 0, 0, 0, 0, 1, 0x80, 8, 0, 0, 0, 9}, byte(id>>8), byte(id))
}

// toTunnel is a data message.
func toTunnel(id uint16, text string) []byte {
	return append([]byte{0, 2, byte(id >> 8), byte(id), 0, 1}, text...)
}

func (r *testRouter) udp(p *nstest.Peer, addr string) (c net.PacketConn) {
	within(r.t, p, func() error {
		c = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("udp4", addr) })
		return nil
	})
	return c
}

// reached wants what the server sends to a tunnel, to port 1701 of the WAN's
// address, to reach a device and no other; it asks until netd has learned it.
func (r *testRouter) reached(server net.PacketConn, id uint16, device net.PacketConn, others ...net.PacketConn) {
	r.t.Helper()
	st := r.status()
	mark := fmt.Sprint("mark ", time.Now().UnixNano())
	r.until(fmt.Sprintf("tunnel %#x reaches its device", id), func() error {
		if _, err := server.WriteTo(toTunnel(id, mark), &net.UDPAddr{IP: st.WAN.Address.Addr().AsSlice(), Port: 1701}); err != nil {
			return err
		}
		device.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		b := make([]byte, 2048)
		n, _, err := device.ReadFrom(b)
		if err == nil && !bytes.Contains(b[:n], []byte(mark)) {
			err = fmt.Errorf("got %x", b[:n])
		}
		return err
	})
	once := "once more, " + mark
	if _, err := server.WriteTo(toTunnel(id, once), &net.UDPAddr{IP: st.WAN.Address.Addr().AsSlice(), Port: 1701}); err != nil {
		r.t.Fatal(err)
	}
	for _, c := range others {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		b := make([]byte, 2048)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				break
			}
			if bytes.Contains(b[:n], []byte(once)) {
				r.t.Errorf("%v got what is tunnel %#x's", c.LocalAddr(), id)
			}
		}
	}
}

// forgetUDP empties the table of connections of UDP, which outlives a test.
func forgetUDP(t *testing.T) {
	c, err := conntrack.New()
	if err == nil {
		_, err = c.Delete(func(e *conntrack.Entry) bool { return e.Protocol == 17 })
	}
	if err != nil {
		t.Error(err)
	}
}

// l2tpCall sends an SCCRQ and gives the port that the server sees.
func (r *testRouter) l2tpCall(c, server net.PacketConn, id uint16) int {
	r.t.Helper()
	if _, err := c.WriteTo(startRequest(id), &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 1701}); err != nil {
		r.t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 2048)
	n, from, err := server.ReadFrom(b)
	if err != nil || !bytes.Equal(b[:n], startRequest(id)) {
		r.t.Fatalf("the server got %x, %v", b[:n], err)
	}
	return from.(*net.UDPAddr).Port
}

// reachedAlone stops netd and wants a tunnel to reach its device all the same.
func (r *testRouter) reachedAlone(server net.PacketConn, id uint16, device net.PacketConn) {
	r.t.Helper()
	wan := r.status().WAN.Address.Addr()
	r.stop()
	if _, err := server.WriteTo(toTunnel(id, "alone"), &net.UDPAddr{IP: wan.AsSlice(), Port: 1701}); err != nil {
		r.t.Fatal(err)
	}
	device.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 2048)
	for {
		n, _, err := device.ReadFrom(b)
		if err != nil {
			r.t.Fatal("without netd:", err)
		}
		if bytes.Contains(b[:n], []byte("alone")) {
			break
		}
	}
}

// TestL2TPTunnels: a server that answers to port 1701 whatever port called.
func TestL2TPTunnels(t *testing.T) {
	t.Cleanup(func() { forgetUDP(t) })
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10", "192.168.1.20", "192.168.1.30")
	server := r.udp(r.isp, "203.0.113.1:1701")
	first, second, third := r.udp(r.pc, "192.168.1.10:1701"), r.udp(r.pc, "192.168.1.20:1701"), r.udp(r.pc, "192.168.1.30:1701")
	call := func(c net.PacketConn, id uint16) int {
		t.Helper()
		return r.l2tpCall(c, server, id)
	}
	if port := call(first, 0x100); port != 1701 {
		t.Errorf("the first device is seen at port %d", port)
	}
	call(second, 0x200)
	r.reached(server, 0x200, second, first)
	r.reached(server, 0x100, first, second)

	// A third one chooses what the second has.
	call(third, 0x200)
	r.until("the clash is known", func() error {
		var c api.PassthroughCounters
		if err := r.call(api.MethodCounters, nil, &c); err != nil {
			return err
		}
		if len(c.L2TPClashes) != 1 {
			return fmt.Errorf("%+v", c.L2TPClashes)
		}
		if x := c.L2TPClashes[0]; x.Tunnel != 0x200 || x.Server.String() != "203.0.113.1" || x.Device.String() != "192.168.1.30" || x.Owner.String() != "192.168.1.20" {
			t.Errorf("the clash is %+v", x)
		}
		return nil
	})
	if all := strings.Join(r.status().Problems, "\n"); !strings.Contains(all, "192.168.1.30 chose L2TP Tunnel ID 512 at 203.0.113.1, which 192.168.1.20 has") {
		t.Errorf("the status does not tell:\n%s", all)
	}
	r.reached(server, 0x200, second, first, third)
	call(third, 0x300) // it tries again
	r.reached(server, 0x300, third, first, second)

	// Without netd the tunnels go on, and after its restart others join.
	r.reachedAlone(server, 0x200, second)
	r.start()
	r.online()
	// A device that comes back from another port keeps its Tunnel ID.
	again := r.udp(r.pc, "192.168.1.20:5000")
	call(again, 0x200)
	r.reached(server, 0x200, again, first, second, third)
	var c api.PassthroughCounters
	if err := r.call(api.MethodCounters, nil, &c); err != nil || len(c.L2TPClashes) != 0 {
		t.Errorf("clashes %+v, %v", c.L2TPClashes, err)
	}
}

func TestParseCall(t *testing.T) {
	packet := func(options int, protocol byte, udp []byte) []byte {
		b := make([]byte, 20+options)
		b[0], b[9] = 0x40|byte(5+options/4), protocol
		copy(b[16:], []byte{198, 51, 100, 1})
		return append(append(b, 0x30, 0x39, 6, 0xa5, 0, 36, 0, 0), udp...)
	}
	for _, options := range []int{0, 12} {
		c, err := parseCall(packet(options, 17, startRequest(0x1234)))
		if err != nil || c.tunnel != 0x1234 || c.port != 12345 || c.server.String() != "198.51.100.1" {
			t.Errorf("%+v, %v", c, err)
		}
	}
	whole := packet(12, 17, startRequest(1))
	for n := range whole {
		if _, err := parseCall(whole[:n]); err == nil {
			t.Errorf("%d bytes are enough", n)
		}
	}
	if _, err := parseCall(packet(0, 6, startRequest(1))); err == nil {
		t.Error("TCP is read")
	}
}
