package qemu

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/qemu/lab"
)

// testGarbage throws noise at every UDP port from both sides, and at the open
// ones malformed packets of their own protocol's size.
func testGarbage(t *testing.T, l *lab.Lab) {
	st := l.Online()
	before := restarts(st)
	heard, err := received(l)
	if err != nil {
		t.Fatal(err)
	}
	// The router is slower than the test, and a full queue drops.
	for _, tap := range []string{"rlan", "rwan"} {
		if err := l.NS.Exec("ip", "link", "set", tap, "txqueuelen", "100000"); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for side, to := range map[string]netip.Addr{"LAN": st.LAN.Address.Addr(), "WAN": st.WAN.Address.Addr()} {
		err := l.NS.Do(func() error {
			c, err := net.ListenUDP("udp4", nil)
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(60 * time.Second)) // a write waits for ARP
			for port := 1; port < 1<<16; port++ {
				noise(rng, c, to, uint16(port))
			}
			for range 300 {
				for _, port := range []uint16{53, 67, 68, 123} {
					noise(rng, c, to, port)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", side, err)
		}
	}
	// DHCP from its own port, by broadcast and to the client on the WAN side.
	for _, p := range []struct{ dev, from, to string }{{"lan", ":68", "255.255.255.255:67"}, {"wan", ":67", st.WAN.Address.Addr().String() + ":68"}} {
		c, err := l.ListenUDP(p.dev, p.from)
		if err != nil {
			t.Fatal(err)
		}
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(p.to))
		for range 300 {
			c.WriteTo(bootp(rng), to)
		}
		c.Close()
	}
	l.Until("all the garbage at the router", 90*time.Second, func() error {
		now, err := received(l)
		for port, n := range now {
			if n -= heard[port]; n < 1<<16 {
				err = fmt.Errorf("the %s got %d packets", port, n)
			}
		}
		return err
	})
	l.Lease(l.C[1])
	l.Sh(l.C[1], "dig +short +time=5 @"+l.LANAddress+" www.example.com | grep -q "+lab.Server1)
	l.Until("ping after the garbage", 60*time.Second, func() error { return l.Ping(l.C[1], lab.Server1) })
	st = l.Online()
	if after := restarts(st); after != before {
		t.Errorf("services were restarted by garbage: %s, before %s", after, before)
	}
}

func restarts(st *api.Status) string {
	var b strings.Builder
	for _, s := range st.Services {
		fmt.Fprintf(&b, "%s:%d ", s.Name, s.Restarts)
	}
	return b.String()
}

// received is how many packets came in at the router's ports, by role.
func received(l *lab.Lab) (map[string]uint64, error) {
	var all []api.Interface
	if err := l.Show("interfaces", &all); err != nil {
		return nil, err
	}
	n := map[string]uint64{}
	for _, i := range all {
		if i.Role == "lan port" || i.Role == "wan" {
			n[i.Role] += i.RxPackets
		}
	}
	if len(n) != 2 {
		return nil, fmt.Errorf("show interfaces has no LAN port or no WAN: %+v", all)
	}
	return n, nil
}

func noise(rng *rand.Rand, c *net.UDPConn, to netip.Addr, port uint16) {
	p := make([]byte, rng.IntN(64))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	c.WriteToUDPAddrPort(p, netip.AddrPortFrom(to, port)) // a refused port may show here later
}

// bootp is a DHCP packet with a good head and options that end anywhere.
func bootp(rng *rand.Rand) []byte {
	p := make([]byte, 240+rng.IntN(100))
	p[0], p[1], p[2] = byte(1+rng.IntN(2)), 1, 6
	for i := 4; i < 44; i++ {
		p[i] = byte(rng.Uint32())
	}
	copy(p[236:], []byte{99, 130, 83, 99, 53, 1, byte(rng.IntN(9)), 12, 255})
	for i := 244; i < len(p); i++ {
		p[i] = byte(rng.Uint32())
	}
	return p
}
