package qemu

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// manyProposals makes the first IKE packet longer than a link carries, so it
// goes in IP fragments.
func manyProposals() string {
	var list []string
	for _, dh := range []string{"modp2048", "modp3072", "modp4096", "dh19", "dh20", "dh21"} {
		for _, cipher := range []string{"aes256", "aes192", "aes128"} {
			for _, hash := range []string{"sha2_512", "sha2_384", "sha2_256"} {
				list = append(list, cipher+"-"+hash+"-"+dh)
			}
		}
	}
	return "ike=" + strings.Join(list, ",")
}

// reassembled is how many packets in fragments came to a host whole.
func reassembled(l *lab.Lab, h *peers.Host) int {
	f := strings.Fields(l.Sh(h, "grep ^Ip: /proc/net/snmp"))
	i := slices.Index(f, "ReasmOKs")
	n, _ := strconv.Atoi(f[i+len(f)/2])
	return n
}

// deadPeers are lines of a connection that asks every 2 s whether the other end
// is alive, and ends the tunnel after 10 s without an answer.
var deadPeers = []string{"dpddelay=2s", "dpdtimeout=10s", "dpdaction=clear"}

// quiet leaves tunnels alone for longer than dead peer detection waits, and
// wants them alive.
func quiet(t *testing.T, tunnels []*lab.Tunnel) {
	t.Helper()
	time.Sleep(13 * time.Second)
	payload(t, tunnels)
	for _, tu := range tunnels {
		if log, _, _ := tu.Log(); strings.Contains(log, "is dead") || strings.Contains(log, "clearing") {
			t.Errorf("%s: dead peer detection ended the tunnel", tu.Host.Name)
		}
	}
}

// testIKEv1: three clients begin at once, in main mode and quick mode with
// native ESP, with IKE packets in fragments and dead peer detection. Then one of
// them comes with NAT traversal instead, which goes from port 500 to 4500,
// while the others go on.
func testIKEv1(t *testing.T, l *lab.Lab) {
	lines := append([]string{"fragmentation=force", manyProposals()}, deadPeers...)
	fragments := func(what string, least int, f func()) {
		t.Helper()
		before := reassembled(l, l.S2)
		f()
		if n := reassembled(l, l.S2) - before; n < least {
			t.Errorf("%s: %d IKE packets came in fragments, want %d or more", what, n, least)
		}
	}
	l.IPsecServerV1(l.S2, lab.Server2, l.C, deadPeers...)
	var tunnels []*lab.Tunnel
	fragments("IKEv1", len(l.C), func() {
		tunnels = together(t, l.C, func(h *peers.Host) (*lab.Tunnel, error) {
			return l.IPsecV1(h, slices.Index(l.C, h), lab.Server2, lines...)
		})
	})
	steady(t, tunnels, 5, func() {})
	quiet(t, tunnels)

	var native []*lab.Tunnel
	for _, tu := range tunnels {
		if tu.Host == l.C[2] {
			tu.Stop()
		} else {
			native = append(native, tu)
		}
	}
	steady(t, native, 10, func() {
		fragments("IKEv2", 1, func() {
			natt := together(t, l.C[2:], func(h *peers.Host) (*lab.Tunnel, error) {
				return l.IPsec(h, lab.Server2, "auto", append([]string{"ikev2=insist"}, lines...)...)
			})
			steady(t, natt, 3, func() {})
		})
	})
	wantSessions(t, l, "ipsec", "nat-t", lab.Server2, l.C[2:])
}
