package qemu

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// rekeying are clients that change the keys of their tunnel every 15 s, and a
// server that changes those of IKE every 20 s.
var rekeying = struct{ client, server []string }{
	client: []string{"ikev2=insist", "ikelifetime=1h", "salifetime=30s", "rekeymargin=15s", "rekeyfuzz=0%"},
	server: []string{"ikev2=insist", "rekey=yes", "ikelifetime=40s", "salifetime=1h", "rekeymargin=20s", "rekeyfuzz=0%"},
}

// TestNativeIPsec: three clients of one server with native ESP talk for a
// minute while keys change on both sides; then netd is restarted under them,
// and one of them starts anew. What comes to each of them, and to a fourth device
// without IPsec, is captured all the time.
func TestNativeIPsec(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true, Clients: []string{"c1", "c2", "c3", "c4"}})
	l.Online()
	for _, h := range l.C {
		l.Lease(h)
	}
	stop := watchCables(t, l, l.C)
	l.Sh(l.C[3], "ping -n -c 3 -i 0.2 "+lab.Server1)
	logs := nativeIPsec(t, l, func() {
		if _, err := l.Router.Command("restart netd"); err != nil {
			t.Log("restart netd: ", err) // it ends its own answer
		}
	})
	cables := stop()
	for _, k := range cables {
		k.learnSPIs(logs[k.host.Name])
	}
	onlyCopies(t, cables, netip.MustParseAddr(lab.Server2), netip.MustParseAddr(lab.IPsecInner))
	for i, k := range cables {
		if has := len(k.own) > 0 && len(k.spis) > 0 && k.esp > 0 && k.ike > 0; has != (i < 3) || len(k.in) == 0 {
			t.Errorf("the capture of %s does not show what it did: %d packets came in", k.host.Name, len(k.in))
		}
	}
}

// TestNativeControl is the same without a router of ours and without NAT: what
// is lost there, the peers lose.
func TestNativeControl(t *testing.T) {
	t.Parallel()
	l := lab.NewControl(t)
	for _, h := range l.C {
		l.Lease(h)
	}
	l.Sh(l.NAT, "nft flush ruleset")
	l.Sh(l.ISP, "ip route add 192.168.1.0/24 via 203.0.113.50")
	nativeIPsec(t, l, func() {})
}

// nativeIPsec returns what the clients logged.
func nativeIPsec(t *testing.T, l *lab.Lab, disturb func()) map[string]string {
	l.IPsecServer(l.S2, lab.Server2, "no", rekeying.server...)
	dial := func(h *peers.Host) (*lab.Tunnel, error) { return l.IPsec(h, lab.Server2, "no", rekeying.client...) }
	tunnels := together(t, l.C[:3], dial)
	steady(t, tunnels, 60, func() {
		if l.Router == nil {
			return
		}
		for end := time.Now().Add(58 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Second) {
			out, err := l.Router.Command("show passthrough counters")
			t.Log(err, out)
		}
	})
	for _, tu := range tunnels {
		log, _, _ := tu.Log()
		if n := strings.Count(log, "rekeyed Child SA"); n < 3 {
			t.Errorf("%s: its keys changed %d times in a minute, want 3 or more", tu.Host.Name, n)
		}
		if !strings.Contains(log, "rekeyed IKE SA") {
			t.Errorf("%s: the server began no new IKE SA", tu.Host.Name)
		}
	}
	logs := map[string]string{}
	keep := func(tu *lab.Tunnel) {
		log, _, err := tu.Log()
		if err != nil {
			t.Fatal(err)
		}
		logs[tu.Host.Name] += log
	}
	steady(t, tunnels[:2], 30, func() {
		disturb()
		// The third starts anew, with the same address, as after a crash.
		h := tunnels[2].Host
		tunnels[2].Signal(9)
		l.Sh(h, "ip xfrm state flush; ip xfrm policy flush; rm -rf /run/pluto")
		tu, err := dial(h)
		if err != nil {
			t.Errorf("the client that started anew: %v", err)
			return
		}
		t.Cleanup(func() { tu.Stop() })
		if err := tu.Payload(10, 500); err != nil {
			t.Errorf("the client that started anew: %v", err)
		}
		keep(tu)
	})
	for _, tu := range tunnels {
		keep(tu)
	}
	return logs
}

// steady pings through all tunnels ten times a second and wants them back, but
// for what the peers lose by themselves when keys change: on a busy machine up to
// 1 %, on an idle one nothing.
func steady(t *testing.T, tunnels []*lab.Tunnel, seconds int, meanwhile func()) {
	t.Helper()
	received := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)
	var wg sync.WaitGroup
	for _, tu := range tunnels {
		wg.Go(func() {
			out, err := tu.Host.Run(time.Duration(seconds)*time.Second+60*time.Second, "ping", "-n", "-q", "-i", "0.1",
				"-c", fmt.Sprint(10*seconds), "-W", "5", "-I", tu.Local, tu.Remote)
			m := received.FindStringSubmatch(out)
			if m == nil {
				t.Errorf("%s: %v\n%s", tu.Host.Name, err, out)
				return
			}
			sent, _ := strconv.Atoi(m[1])
			got, _ := strconv.Atoi(m[2])
			t.Logf("%s: %d of %d pings answered", tu.Host.Name, got, sent)
			if sent < 10*seconds || sent-got > sent/100 {
				t.Errorf("%s: %d of %d pings answered, want all but %d", tu.Host.Name, got, sent, sent/100)
			}
		})
	}
	meanwhile()
	wg.Wait()
}
