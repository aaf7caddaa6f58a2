package qemu

import (
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// TestL2TPTo1701: three clients, all from port 1701, of an L2TP server whose
// answers are changed so that they go to port 1701 whatever port called.
func TestL2TPTo1701(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	l.Online()
	for _, h := range l.C {
		l.Lease(h)
	}
	// xl2tpd sends UDP without checksums: there is nothing to mend.
	l.Sh(l.S1, "nft add table ip answers; nft 'add chain ip answers out { type filter hook output priority 0; }'; "+
		"nft add rule ip answers out udp sport 1701 @th,16,16 set 1701")
	l.L2TPServer(l.S1)
	tunnels := together(t, l.C, func(h *peers.Host) (*lab.Tunnel, error) { return l.L2TP(h, lab.Server1) })
	steady(t, tunnels, 10, func() {
		// What was learned is the kernel's, and netd's restart forgets none of it.
		if _, err := l.Router.Command("restart netd"); err != nil {
			t.Log("restart netd: ", err) // it ends its own answer
		}
	})
}
