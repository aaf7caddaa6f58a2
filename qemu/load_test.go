package qemu

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// The load: devices with SPIs to one server and with others to a server of
// their own, 4000 SPIs in all.
const (
	loadDevices = 64
	loadShared  = 8
	loadOwn     = 54
)

func loadDevice(i int) string { return fmt.Sprintf("192.168.1.%d", 20+i) }
func loadServer(i int) string { return fmt.Sprintf("198.51.100.%d", 100+i) }

func spis(first uint32, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = first + uint32(i)
	}
	return out
}

// testLoad: 64 devices start at once to one server, with 8 SPIs each and 4000 in
// all; each gets all that is its own, and nothing of servers that it does not
// talk to.
func testLoad(t *testing.T, l *lab.Lab) {
	devices, servers := l.C[0], l.S1
	var a, s strings.Builder
	listen := []peers.Traffic{{}, {}}
	for i := range loadDevices {
		fmt.Fprintf(&a, "ip addr add %s/24 dev eth0; ", loadDevice(i))
		fmt.Fprintf(&s, "ip addr add %s/24 dev eth0; ", loadServer(i))
		listen[0].Listen, listen[1].Listen = append(listen[0].Listen, loadDevice(i)), append(listen[1].Listen, loadServer(i))
	}
	l.Sh(devices, a.String())
	l.Sh(servers, s.String())
	listen[1].Listen = append(listen[1].Listen, lab.Server1)
	traffic := func(h *peers.Host, rate int, f ...peers.Flight) peers.Counts {
		t.Helper()
		c, err := h.Traffic(peers.Traffic{Flights: f, Rate: rate})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i, h := range []*peers.Host{devices, servers} {
		if _, err := h.Traffic(listen[i]); err != nil {
			t.Fatal(err)
		}
	}
	wan := l.Online().WAN.Address.Addr().String()
	at := func(to, from string) string { return to + " " + from }

	// All at once, as after a power failure; each asks again every second.
	began := time.Now()
	var ike []peers.Flight
	for i := range loadDevices {
		ike = append(ike, peers.Flight{From: loadDevice(i), To: lab.Server1, IKE: true, SPIs: []uint32{uint32(i)}})
	}
	l.Until("the IKE of all devices comes to the server", 2*time.Minute, func() error {
		traffic(devices, 400, ike...)
		time.Sleep(time.Second)
		if n := len(traffic(servers, 0)[at(lab.Server1, wan)+" ike"]); n < loadDevices {
			return fmt.Errorf("of %d of %d", n, loadDevices)
		}
		return nil
	})
	t.Logf("%d devices of one server let in within %.1f s", loadDevices, time.Since(began).Seconds())

	var out, in, copied []peers.Flight
	for i := range loadDevices {
		out = append(out, peers.Flight{From: loadDevice(i), To: lab.Server1, SPIs: spis(uint32(0x10000+i<<8), loadShared)},
			peers.Flight{From: loadDevice(i), To: loadServer(i), SPIs: spis(uint32(0x20000+i<<8), loadOwn)})
		in = append(in, peers.Flight{From: loadServer(i), To: wan, SPIs: spis(uint32(0x40000+i<<8), loadOwn)})
		copied = append(copied, peers.Flight{From: lab.Server1, To: wan, SPIs: spis(uint32(0x30000+i<<8), loadShared)})
	}
	complete(t, "out", func() { traffic(devices, 400, out...) }, func() peers.Counts { return traffic(servers, 0) }, func(c peers.Counts) (missing int) {
		for i := range loadDevices {
			missing += lacks(c[at(lab.Server1, wan)], spis(uint32(0x10000+i<<8), loadShared)) +
				lacks(c[at(loadServer(i), wan)], spis(uint32(0x20000+i<<8), loadOwn))
		}
		return missing
	})
	got := complete(t, "in", func() {
		traffic(servers, 400, in...)
		traffic(servers, 40, copied...) // 64 times as many for the router
	}, func() peers.Counts { return traffic(devices, 0) }, func(c peers.Counts) (missing int) {
		for i := range loadDevices {
			missing += lacks(c[at(loadDevice(i), lab.Server1)], spis(uint32(0x30000+i<<8), loadShared)) +
				lacks(c[at(loadDevice(i), loadServer(i))], spis(uint32(0x40000+i<<8), loadOwn))
		}
		return missing
	})
	for i := range loadDevices {
		for key, c := range got {
			if to, from, _ := strings.Cut(key, " "); to == loadDevice(i) && from != lab.Server1 && from != loadServer(i) {
				t.Errorf("%s got ESP of %s, which it does not talk to: %v", to, from, c)
			}
		}
		if more := len(got[at(loadDevice(i), loadServer(i))]); more > loadOwn {
			t.Errorf("%s got %d SPIs of its server, which sent %d", loadDevice(i), more, loadOwn)
		}
	}
	var counters api.PassthroughCounters
	if err := l.Show("passthrough counters", &counters); err != nil {
		t.Fatal(err)
	}
	for _, v := range counters.Sets {
		if want := loadDevices * (loadShared + loadOwn); v.Name == "outbound" && v.Used < want {
			t.Errorf("%d outbound SPIs are known, want %d", v.Used, want)
		}
	}
	t.Logf("the load took %.1f s", time.Since(began).Seconds())
}

// complete sends until nothing is missing, at most three times: emulated
// network cards lose packets.
func complete(t *testing.T, way string, send func(), look func() peers.Counts, missing func(peers.Counts) int) peers.Counts {
	t.Helper()
	for try := 1; ; try++ {
		send()
		n := -1
		for was := 0; n != was; { // what is still on its way
			time.Sleep(2 * time.Second)
			c := look()
			if was, n = n, missing(c); n == 0 {
				return c
			}
		}
		t.Logf("%s, time %d: %d SPIs did not arrive", way, try, n)
		if try == 3 {
			t.Fatalf("%s: %d SPIs never arrive", way, n)
		}
	}
}

// lacks is how many of the SPIs never came.
func lacks(c map[uint32]int, want []uint32) (n int) {
	for _, spi := range want {
		if c[spi] == 0 {
			n++
		}
	}
	return n
}

// testFlood: one device opens connections without end; others go on.
func testFlood(t *testing.T, l *lab.Lab) {
	flood, other := l.C[0], l.C[1]
	l.Sh(flood, "nmap -n -Pn -sU --max-retries 0 --min-rate 1000 -p 1-5000 "+lab.Server2+" >/dev/null")
	st := l.Ready()
	if st.Conntrack.Max != 8192 || st.Conntrack.Used > 3000 {
		t.Errorf("conntrack has %d of %d entries, want about 2048 of 8192", st.Conntrack.Used, st.Conntrack.Max)
	}
	want := fmt.Sprintf("%s %s holds 20", flood.Name, l.Address(flood))
	if all := strings.Join(st.Problems, "\n"); !strings.Contains(all, want) {
		t.Errorf("show status does not say %q...:\n%s", want, all)
	}
	l.Sh(other, "nmap -n -Pn -sT -p 1-20 "+lab.Server1+" | grep -c closed")
}

// TestLoad runs what many devices, and one that floods, do to the router, after
// IKEv1.
func TestLoad(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	l.Online()
	for _, h := range l.C {
		l.Lease(h)
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{{"IKEv1", testIKEv1}, {"64 devices", testLoad}, {"flood", testFlood}} {
		t.Run(c.name, func(t *testing.T) { c.run(t, l.For(t)) })
	}
}
