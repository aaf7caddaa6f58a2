package qemu

import (
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// TestPeersControl runs every VPN peer through a stock Linux in the router's
// place: when it is green, a red router test means the router.
func TestPeersControl(t *testing.T) {
	t.Parallel()
	l := lab.NewControl(t)
	runSteps(t, l, []step{
		{"leases and names", func(t *testing.T, l *lab.Lab) {
			for _, h := range l.C {
				l.Lease(h)
				if out := l.Sh(h, "dig +short +time=5 @192.168.1.1 www.example.com"); strings.TrimSpace(out) != lab.Server1 {
					t.Errorf("%s: dig www.example.com: %q", h.Name, out)
				}
			}
		}},
		{"PPTP", dialPPTP},
		{"L2TP", dialL2TP},
		{"IPsec with NAT-T", dialNATT},
		{"IPsec, native ESP", func(t *testing.T, l *lab.Lab) { dialESP(t, l, l.C[2:]) }},
		{"PPTP server on the LAN", func(t *testing.T, l *lab.Lab) {
			l.PPTPServer(l.C[0])
			together(t, []*peers.Host{l.S2}, func(h *peers.Host) (*lab.Tunnel, error) { return l.PPTP(h, "203.0.113.50") })
		}},
	})
}
