package qemu

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// testHandshakes sends handshakes where the flowtable would carry them past
// the rules.
func testHandshakes(t *testing.T, l *lab.Lab) {
	run := func(h *peers.Host, argv ...string) {
		p, err := h.Start(argv...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Stop() })
	}
	handshakeInFlow(t, l, run)
	handshakeOverTCP(t, l, run)
}

// handshakeInFlow sends WireGuard's in the middle of a flow: while it is off,
// the flow is not in the flowtable.
func handshakeInFlow(t *testing.T, l *lab.Lab, run func(*peers.Host, ...string)) {
	const to = lab.Server1 + ":40000"
	run(l.S1, "socat", "UDP4-LISTEN:40000,reuseaddr,fork", "EXEC:cat")
	// What is in the file comes back from one port, five times a second; socat
	// ends when it is told of a refusal.
	l.Sh(l.C[1], `echo again > /tmp/again; (printf '\001\000\000\000'; head -c 144 /dev/zero | tr '\000' x) > /tmp/handshake; cp /tmp/again /tmp/next`)
	run(l.C[1], "sh", "-c", "while :; do (while sleep 0.2; do cat /tmp/next || exit; done) | socat -T 300 - UDP4:"+to+",sourceport=45000 >> /tmp/shakes; done")
	say := func(what string) { l.Sh(l.C[1], "cp /tmp/"+what+" /tmp/new; mv /tmp/new /tmp/next") }
	seen := ""
	more := func() error {
		time.Sleep(time.Second)
		now := strings.TrimSpace(l.Sh(l.C[1], "wc -c < /tmp/shakes"))
		if now == seen {
			return fmt.Errorf("%s bytes came back, no more than a second ago", now)
		}
		seen = now
		return nil
	}
	offloaded(t, l, "udp", to, more)
	l.Commit("set passthrough wireguard off")
	t.Cleanup(func() { l.Commit("set passthrough wireguard on") })
	l.Until("the flow to go on", 20*time.Second, more)
	for range 3 {
		if err := more(); err != nil {
			t.Fatal(err)
		}
		list, err := tracked(l, "udp", to)
		if err != nil || len(list) != 1 || list[0].Offloaded {
			t.Errorf("show connections: %+v, %v; want one that the rules see", list, err)
		}
	}
	say("handshake")
	more() //nolint:errcheck // what was on its way
	if more() == nil {
		t.Error("a handshake comes back")
	}
	say("again")
	l.Until("the flow to go on after the handshakes", 20*time.Second, more)
	l.Commit("set passthrough wireguard on")
	offloaded(t, l, "udp", to, more)
	say("handshake")
	if err := errors.Join(more(), more()); err != nil {
		t.Errorf("handshakes that may: %v", err)
	}
}

// handshakeOverTCP: the first segment is OpenVPN's. The flowtable takes a
// connection that is up, and so would have it.
func handshakeOverTCP(t *testing.T, l *lab.Lab, run func(*peers.Host, ...string)) {
	run(l.S1, "socat", "TCP4-LISTEN:40001,reuseaddr,fork", "EXEC:cat")
	l.Sh(l.C[1], `printf '\000\0168sessions\000\000\000\000\000' > /tmp/reset`)
	back := func(file string) string {
		return strings.TrimSpace(l.Sh(l.C[1], "(sleep 1; cat /tmp/"+file+"; sleep 2) | socat -t 2 - TCP4:"+lab.Server1+":40001 2> /dev/null | wc -c; true"))
	}
	if got := back("reset"); got != "16" {
		t.Errorf("%s bytes of OpenVPN's first segment come back while it is on", got)
	}
	l.Commit("set passthrough openvpn off")
	t.Cleanup(func() { l.Commit("set passthrough openvpn on") })
	if got := back("reset"); got != "0" {
		t.Errorf("%s bytes of OpenVPN's first segment come back", got)
	}
	if got := back("again"); got != "6" {
		t.Errorf("%s bytes of another first segment come back", got)
	}
}

// testPPTPPort dials PPTP at a control port of its own. Neither pptp nor pptpd
// have one to choose, so both ends translate it.
func testPPTPPort(t *testing.T, l *lab.Lab) {
	l.Commit("set passthrough pptp ports 1723 1724")
	t.Cleanup(func() { l.Commit("set passthrough pptp ports 1723") })
	translate := func(h *peers.Host, chain, rule string) {
		l.Sh(h, "nft 'add table ip other; add chain ip other c { type nat hook "+chain+"; }; add rule ip other c "+rule+"'")
		t.Cleanup(func() { l.Sh(h, "nft delete table ip other") })
	}
	translate(l.S1, "prerouting priority dstnat", "tcp dport 1724 redirect to :1723")
	for _, h := range l.C {
		translate(h, "output priority -100", "ip daddr "+lab.Server1+" tcp dport 1723 dnat to "+lab.Server1+":1724")
	}
	dialPPTP(t, l)
	wantSessions(t, l, "pptp", "data", lab.Server1, l.C)
	list, err := tracked(l, "tcp", lab.Server1+":1724")
	if err != nil || len(list) != len(l.C) {
		t.Errorf("control connections at port 1724: %+v, %v; want %d", list, err, len(l.C))
	}
}
