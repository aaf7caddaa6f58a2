package netd

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
)

// TestBindings: of two devices of a server the one that talks when the server
// does is found, keeps what it has over a restart of netd, and loses it when
// the other one answers.
func TestBindings(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	addrs := []string{"192.168.1.10", "192.168.1.11"}
	r.home(addrs...)
	var ike, esp []net.PacketConn
	for _, a := range addrs {
		within(t, r.pc, func() error {
			ike = append(ike, r.sender(func() (net.PacketConn, error) { return net.ListenPacket("udp4", a+":500") }))
			esp = append(esp, r.sender(func() (net.PacketConn, error) { return net.ListenPacket("ip4:50", a) }))
			return nil
		})
	}
	var server net.PacketConn
	within(t, r.isp, func() error {
		server = r.sender(func() (net.PacketConn, error) { return net.ListenPacket("ip4:50", "203.0.113.1") })
		return nil
	})
	send := func(c net.PacketConn, to net.Addr, b []byte) {
		t.Helper()
		if _, err := c.WriteTo(b, to); err != nil {
			t.Fatal(err)
		}
	}
	counters := func() (c api.PassthroughCounters) {
		t.Helper()
		if err := r.call(api.MethodCounters, nil, &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	r.until("two devices", func() error {
		for i, c := range ike {
			header := make([]byte, 28)
			binary.BigEndian.PutUint64(header, 0x1122334455667700+uint64(i))
			send(c, &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 500}, header)
		}
		if c := counters(); c.SecondDevices != 1 {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})

	// burst has a device ask and the server answer; both pause before.
	packet := func(spi uint32) []byte { return append(binary.BigEndian.AppendUint32(nil, spi), make([]byte, 36)...) }
	wan, beat := &net.IPAddr{IP: r.status().WAN.Address.Addr().AsSlice()}, 0
	burst := func(device int) {
		gaps := [...]time.Duration{700, 1100, 1600, 900, 1350, 1900, 600}
		time.Sleep(gaps[beat%len(gaps)] * time.Millisecond)
		beat++
		send(esp[device], &net.IPAddr{IP: net.IPv4(203, 0, 113, 1)}, packet(0xa0+uint32(device)))
		send(server, wan, packet(0xb1))
	}
	state := func() string {
		t.Helper()
		var list []api.Session
		if err := r.call(api.MethodPassthrough, nil, &list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.Kind == "esp" && s.Device.String() == addrs[1] {
				return s.State + ", " + s.Owner
			}
		}
		return ""
	}
	burst(1)
	if got := state(); got != "learning, copied" {
		t.Errorf("at first: %s", got)
	}
	for known := false; !known; known = counters().Servers[0].SPIsBound == 1 {
		if beat > 60 {
			t.Fatalf("not found in %d bursts: %+v", beat, counters())
		}
		burst(1)
	}
	if got := state(); got != "up, evidence" {
		t.Errorf("after %d bursts: %s", beat, got)
	}

	r.stop()
	r.start()
	r.until("the restarted netd", func() error {
		if got := state(); got != "up, evidence" {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	for range 2 {
		burst(0)
	}
	r.until("the end of what is no longer so", func() error {
		if c := counters(); c.Servers[0].SPIsBound != 0 || c.Corrections != 1 {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}
