package frames

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// TestFrames: what is handed to a device is heard by a socket, each packet
// once, with its source port.
func TestFrames(t *testing.T) {
	ns := nettest.New(t)
	ns.Run(t, "ip link add in type veth peer name out\nip link set in up\nip addr add 192.0.2.1/24 dev in")
	ns.Sysctl(t, "net/ipv4/conf/all/rp_filter", "0")
	ns.Sysctl(t, "net/ipv4/conf/in/rp_filter", "0")
	var in *net.Interface
	var conn net.PacketConn
	var err, err2 error
	ns.Do(func() {
		in, err = net.InterfaceByName("in")
		conn, err2 = net.ListenPacket("udp4", "192.0.2.1:9")
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	if err != nil {
		t.Fatal(err)
	}
	frame := UDP(net.HardwareAddr{2, 0, 0, 0, 0, 1}, in.HardwareAddr, netip.MustParseAddrPort("192.0.2.7:7"), netip.MustParseAddrPort("192.0.2.1:9"))
	before := map[string]bool{}
	for _, c := range []struct {
		name  string
		send  func() (time.Duration, error)
		ports int // flows that were not there before
	}{
		{"packets", func() (time.Duration, error) { return Packets(in.Index, frame, n) }, 1},
		{"flows", func() (time.Duration, error) { return Flows(in.Index, frame, 0, n) }, n},
		{"flows again", func() (time.Duration, error) { return Flows(in.Index, frame, 0, n) }, 0},
		{"other flows", func() (time.Duration, error) { return Flows(in.Index, frame, n, n) }, n},
	} {
		var cpu time.Duration
		ns.Do(func() { cpu, err = c.send() })
		if err != nil || cpu <= 0 {
			t.Fatalf("%s: %v, %v", c.name, cpu, err)
		}
		fresh, ports := 0, map[string]int{}
		for range n {
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			k, from, err := conn.ReadFrom(make([]byte, 100))
			if err != nil || k != 18 {
				t.Fatalf("%s: %d bytes, %v", c.name, k, err)
			}
			if ports[from.String()]++; !before[from.String()] {
				before[from.String()] = true
				fresh++
			}
		}
		if fresh != c.ports {
			t.Errorf("%s: %d flows that were not there before, want %d: %.200v", c.name, fresh, c.ports, ports)
		}
		hosts := map[string]bool{}
		for from := range ports {
			host, _, _ := net.SplitHostPort(from)
			hosts[host] = true
		}
		if c.name != "packets" && (len(hosts) != Hosts || len(ports) != n) {
			t.Errorf("%s: %d flows of %d hosts", c.name, len(ports), len(hosts))
		}
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, _, err := conn.ReadFrom(make([]byte, 100)); err == nil {
			t.Errorf("%s: more than %d packets", c.name, n)
		}
	}
	if _, err := Flows(in.Index, frame, MaxFlows-n+1, n); err == nil {
		t.Error("more flows than there are ports")
	}
}
