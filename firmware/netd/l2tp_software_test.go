package netd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

// TestXL2TPD: two xl2tpd clients and an xl2tpd server, whose answers are changed
// to those of other servers. xl2tpd sends UDP without checksums.
func TestXL2TPD(t *testing.T) {
	for _, server := range []struct{ name, rules string }{
		{"always to port 1701", "add rule ip x out udp sport 1701 @th,16,16 set 1701"},
		{"from another port", "add rule ip x out udp sport 1701 @th,0,16 set 40001"},
	} {
		t.Run(server.name, func(t *testing.T) { testXL2TPD(t, server.rules) })
	}
}

func testXL2TPD(t *testing.T, rules string) {
	nstest.Require(t, "xl2tpd")
	t.Cleanup(func() { forgetUDP(t) })
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10", "192.168.1.20")
	r.isp.Run("nft", "add table ip x; add chain ip x out { type filter hook output priority 0; }; "+rules)
	start := func(p *nstest.Peer, name, config string) (d *nstest.Daemon, control string) {
		t.Helper()
		dir := t.TempDir()
		conf := filepath.Join(dir, name)
		if err := os.WriteFile(conf, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		control = filepath.Join(dir, "control")
		return p.Start("xl2tpd", "-D", "-c", conf, "-s", "/dev/null", "-p", filepath.Join(dir, "pid"), "-C", control), control
	}
	server, _ := start(r.isp, "server", "[global]\nport = 1701\n[lns default]\nip range = 10.9.0.2-10.9.0.9\nlocal ip = 10.9.0.1\n")
	server.Expect(0, "Listening on IP address")
	for _, host := range []string{"192.168.1.10", "192.168.1.20"} {
		client, control := start(r.pc, host, "[global]\nlisten-addr = "+host+"\nport = 1701\n")
		at := client.Expect(0, "Listening on IP address")
		r.until("xl2tpd takes commands", func() error {
			_, err := os.Stat(control)
			return err
		})
		began := time.Now()
		if err := os.WriteFile(control, []byte("t 203.0.113.1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		client.Expect(at, "Connection established to 203.0.113.1, 1701")
		t.Log(host, "connected in", time.Since(began).Round(time.Millisecond))
		server.Expect(0, fmt.Sprintf("Connection established to %s", r.status().WAN.Address.Addr()))
	}
}
