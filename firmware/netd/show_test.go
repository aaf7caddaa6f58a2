package netd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/api"
)

// sender is a raw or UDP socket in a peer's namespace.
func (r *testRouter) sender(open func() (net.PacketConn, error)) net.PacketConn {
	r.t.Helper()
	c, err := open()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// TestShowTunnels: states, last packets, counters and the fill of sets as the
// kernel tells them.
func TestShowTunnels(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10")
	var ike, natt, esp, far net.PacketConn
	within(t, r.pc, func() error {
		ike = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("udp4", "192.168.1.10:500") })
		natt = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("udp4", "192.168.1.10:4500") })
		esp = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("ip4:50", "192.168.1.10") })
		return nil
	})
	within(t, r.isp, func() error {
		far = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("ip4:50", "203.0.113.1") })
		return nil
	})
	send := func(c net.PacketConn, to net.Addr, b []byte) {
		t.Helper()
		if _, err := c.WriteTo(b, to); err != nil {
			t.Fatal(err)
		}
	}
	server := net.IPv4(203, 0, 113, 1)
	header := make([]byte, 28)
	binary.BigEndian.PutUint64(header, 0x1122334455667788)
	packet := func(spi uint32) []byte { return append(binary.BigEndian.AppendUint32(nil, spi), make([]byte, 36)...) }
	want := func(what string, f func(map[string]api.Session) bool) {
		t.Helper()
		r.until(what, func() error {
			var list []api.Session
			if err := r.call(api.MethodPassthrough, nil, &list); err != nil {
				return err
			}
			kinds, text := map[string]api.Session{}, ""
			for _, s := range list {
				kinds[s.Kind] = s
				text += fmt.Sprintf("%+v last %v\n", s, s.Last)
			}
			if !f(kinds) {
				return fmt.Errorf("there are:\n%s", text)
			}
			return nil
		})
	}
	send(ike, &net.UDPAddr{IP: server, Port: 500}, header)
	send(natt, &net.UDPAddr{IP: server, Port: 4500}, make([]byte, 40))
	want("negotiations", func(s map[string]api.Session) bool {
		return s["ike"].State == "negotiating" && s["ike"].Owner == "exact" && s["ike"].Last != nil && *s["ike"].Last < time.Minute &&
			s["nat-t"].State == "negotiating" && s["nat-t"].Last != nil && *s["nat-t"].Last < time.Minute
	})
	for range 3 {
		send(esp, &net.IPAddr{IP: server}, packet(0xc0ffee01))
	}
	wan := r.status().WAN.Address.Addr()
	for range 2 {
		send(far, &net.IPAddr{IP: wan.AsSlice()}, packet(0xbeef0001))
	}
	want("ESP both ways", func(s map[string]api.Session) bool {
		e := s["esp"]
		return s["ike"].State == "up" && e.State == "up" && e.Owner == "only device" && e.PktsOut == 3 && e.BytesOut == 180 && e.PktsIn == 2 && e.BytesIn == 120
	})
	// Nothing is sent any more: the time since grows.
	want("the time since the last packets", func(s map[string]api.Session) bool {
		for _, kind := range []string{"ike", "nat-t", "esp"} {
			if l := s[kind].Last; l == nil || *l < 2*time.Second || *l > time.Minute {
				return false
			}
		}
		return true
	})
	var c api.PassthroughCounters
	if err := r.call(api.MethodCounters, nil, &c); err != nil {
		t.Fatal(err)
	}
	one := api.ServerCounters{Server: netip.MustParseAddr("203.0.113.1"), Devices: 1, SPIsOut: 1, PktsOut: 3, BytesOut: 180, SPIsIn: 1, PktsIn: 2, BytesIn: 120}
	if len(c.Servers) != 1 || c.Servers[0] != one || c.MostDevices != mostShared {
		t.Errorf("counters: %+v", c)
	}
	_, table, _ := strings.Cut(nftables("list", "table", "ip", "culvert"), "{")
	used := map[string]int{}
	for _, s := range c.Sets {
		used[s.Name] = s.Used
		_, kernels, _ := strings.Cut(table, " "+s.Name+" {")
		kernels, _, _ = strings.Cut(kernels, "}")
		if s.Max < 256 || !strings.Contains(kernels, fmt.Sprintf("size %d\n", s.Max)) {
			t.Errorf("%s has room for %d; the kernel says:%s", s.Name, s.Max, kernels)
		}
	}
	if n, ok := used["fresh"]; !ok || n > 1 { // it forgets within seconds
		t.Errorf("fresh has %d elements", n)
	}
	delete(used, "fresh")
	if d := cmp.Diff(used, map[string]int{"servers": 1, "assocs": 1, "first": 1, "cookies": 1, "outbound": 1, "sends": 1, "inbound": 1,
		"device_rate": 1, "server_rate": 1, "unknown_rate": 0, "second_rate": 0, "crowding": 0, "excess": 0, "l2tp_ports": 0, "l2tp_tunnels": 0, "l2tp_flows": 0, "l2tp_calls": 0}); d != "" {
		t.Errorf("fill of the sets (- is, + should be):\n%s", d)
	}
}

// TestShowProtection: a device with a tunnel alone is protected until it asks
// the router for a name.
func TestShowProtection(t *testing.T) {
	r := newRouter(t, "192.168.77") // a private network: another NAT
	r.online()
	r.home("192.168.1.10")
	var esp, any net.PacketConn
	within(t, r.pc, func() error {
		esp = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("ip4:50", "192.168.1.10") })
		any = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("udp4", "192.168.1.10:0") })
		return nil
	})
	until := func(state, reason string) {
		t.Helper()
		r.until(state, func() error {
			var p api.Protection
			if err := r.call(api.MethodProtection, nil, &p); err != nil {
				return err
			}
			if p.Behind != "nat" || p.Address != r.status().WAN.Address.Addr() || len(p.Devices) != 1 || p.Devices[0].State != state ||
				len(p.Devices[0].Reasons) != 1 || !strings.HasPrefix(p.Devices[0].Reasons[0], reason) {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
	send := func(c net.PacketConn, to net.Addr) {
		t.Helper()
		if _, err := c.WriteTo(make([]byte, 40), to); err != nil {
			t.Fatal(err)
		}
	}
	send(esp, &net.IPAddr{IP: net.IPv4(192, 168, 77, 1)})
	until("protected", "IPsec to 192.168.77.1")
	send(any, &net.UDPAddr{IP: net.IPv4(192, 168, 1, 1), Port: 53})
	until("unprotected", "DNS outside a tunnel: 1 connection, e.g. udp to 192.168.1.1:53 (the router")
}

// TestShowShared: a second device of a server is counted as it is let in, and
// what the server sends belongs to nobody from then on.
func TestShowShared(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	var ike []net.PacketConn
	addrs := []string{"192.168.1.10", "192.168.1.11"}
	r.home(addrs...)
	for _, a := range addrs {
		within(t, r.pc, func() error {
			ike = append(ike, r.sender(func() (net.PacketConn, error) { return net.ListenPacket("udp4", a+":500") }))
			return nil
		})
	}
	r.until("two devices", func() error {
		for i, c := range ike {
			header := make([]byte, 28)
			binary.BigEndian.PutUint64(header, 0x1122334455667700+uint64(i))
			if _, err := c.WriteTo(header, &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 500}); err != nil {
				return err
			}
		}
		var c api.PassthroughCounters
		if err := r.call(api.MethodCounters, nil, &c); err != nil {
			return err
		}
		if c.SecondDevices != 1 || c.Refused != 0 || len(c.Servers) != 1 || c.Servers[0].Devices != 2 || !c.Servers[0].Copied {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	// Without copies a server is its first device's, until there are copies again.
	candidate, base := r.candidate("passthrough ipsec copy off")
	if _, err := r.commit(base, candidate, 0); err != nil {
		t.Fatal(err)
	}
	r.until("one device", func() error {
		var c api.PassthroughCounters
		if err := r.call(api.MethodCounters, nil, &c); err != nil {
			return err
		}
		if len(c.Servers) != 1 || c.Servers[0].Devices != 1 || c.Servers[0].Copied {
			return fmt.Errorf("%+v", c.Servers)
		}
		return nil
	})
	candidate, base = r.candidate("passthrough ipsec copy on")
	if _, err := r.commit(base, candidate, 0); err != nil {
		t.Fatal(err)
	}
	r.until("two devices again", func() error {
		for _, c := range ike {
			if _, err := c.WriteTo(make([]byte, 28), &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 500}); err != nil {
				return err
			}
		}
		var c api.PassthroughCounters
		if err := r.call(api.MethodCounters, nil, &c); err != nil {
			return err
		}
		if len(c.Servers) != 1 || c.Servers[0].Devices != 2 || !c.Servers[0].Copied {
			return fmt.Errorf("%+v", c.Servers)
		}
		return nil
	})
	// Off ends all tunnels; on begins with none.
	for _, state := range []string{"off", "on"} {
		candidate, base := r.candidate("passthrough ipsec " + state)
		if _, err := r.commit(base, candidate, 0); err != nil {
			t.Fatal(err)
		}
	}
	var after api.PassthroughCounters
	if err := r.call(api.MethodCounters, nil, &after); err != nil {
		t.Fatal(err)
	}
	if len(after.Servers) != 0 {
		t.Errorf("after off and on there are %+v", after.Servers)
	}
	if copies := nftables("list", "map", "ip", "culvert", "copies"); strings.Contains(copies, "203.0.113.1") {
		t.Errorf("the server's packets are still copied:\n%s", copies)
	}
}
