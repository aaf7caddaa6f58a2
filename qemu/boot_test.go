package qemu

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
	"github.com/culvert-fw/culvert/qemu/vm"
)

// TestFreshBoots boots two fresh routers: each makes a host key of its own.
// It runs alone and reports how long a boot takes and what memory is used.
func TestFreshBoots(t *testing.T) {
	var keys [2]string
	for i := range keys {
		l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: i == 0, NoBoot: true})
		if i == 0 {
			reportBoot(t, l)
		} else {
			l.Boot()
		}
		st := l.Ready()
		keys[i] = string(ssh.MarshalAuthorizedKey(l.HostKey()))
		if i == 0 { // the start takes more; idle is after it
			l.Until("a router at rest", 60*time.Second, func() (err error) {
				if st, err = l.Status(); err == nil && st.Uptime < 20*time.Second {
					err = fmt.Errorf("up for %v", st.Uptime)
				}
				return err
			})
			reportMemory(t, st)
		}
		l.Router.Stop()
	}
	if keys[0] == keys[1] {
		t.Errorf("two fresh routers have the same host key %s", keys[0])
	}
}

func reportMemory(t *testing.T, st *api.Status) {
	t.Logf("memory: %.1f MB anonymous (goal: 8 MB or less), %.1f of %.1f MB available",
		float64(st.Memory.Anonymous)/1e6, float64(st.Memory.Available)/1e6, float64(st.Memory.Total)/1e6)
}

// reportBoot measures, on the clock of a LAN host with a fixed address, when
// the router answers and when the Internet does.
func reportBoot(t *testing.T, l *lab.Lab) {
	c := l.C[0]
	// The router's MAC address is known: ARP asks but once a second.
	l.Sh(c, "ip addr add 192.168.1.9/24 dev eth0; ip route add default via 192.168.1.1; "+
		"ip neigh add 192.168.1.1 lladdr "+vm.DefaultLANMAC+" dev eth0 nud permanent")
	ping := map[string]*peers.Process{}
	for name, addr := range map[string]string{"the LAN answers": "192.168.1.1", "first packet through NAT": lab.Server1} {
		p, err := c.Start("sh", "-c", "until ping -n -D -W 0.2 -c 1 "+addr+" | grep time=; do :; done")
		if err != nil {
			t.Fatal(err)
		}
		ping[name] = p
	}
	l.Boot()
	if _, err := l.Router.Console.Expect("Linux version", 60*time.Second); err != nil {
		t.Fatal(err)
	}
	kernel := time.Now()
	l.Online()
	stamp := regexp.MustCompile(`\[(\d+\.\d+)\].*time=`)
	for name, p := range ping {
		l.Until(name, 60*time.Second, func() error {
			out, _, err := p.Log()
			m := stamp.FindStringSubmatch(out)
			if m == nil {
				return l.Ping(c, "192.168.1.1")
			}
			sec, _ := strconv.ParseFloat(m[1], 64)
			t.Logf("kernel start to %q: %.2f s", name, sec-float64(kernel.UnixMicro())/1e6)
			return err
		})
		p.Stop()
	}
}

// TestMipsel is the little-endian board: boot, DHCP, NAT, PPTP.
func TestMipsel(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Board: "qemu-mipsel", Settings: settings.Default(), Peers: true})
	st := l.Online()
	if !strings.Contains(strings.ToLower(st.Board), "little endian") {
		t.Errorf("the board is %q, want the little-endian one", st.Board)
	}
	runSteps(t, l, []step{
		{"leases and names", testLeases},
		{"NAT", testNAT},
		{"PPTP, three clients", testPPTP},
	})
}
