// Package demo shows the router at work: it boots the lab, dials tunnels of five
// devices at once, and shows them live on the person's terminal.
package demo

import (
	"context"
	"os"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// The devices at home; the first three have IPsec, the others PPTP.
var devices = []string{"laptop", "phone", "tablet", "desktop", "scanner"}

const withIPsec = 3

// Run shows the demo until a key is pressed or ctx ends, and ends all that it
// started. in and out are the person's terminal; where they are none, the
// tunnels are listed again every second until ctx ends.
func Run(ctx context.Context, in, out *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{ctx: ctx, out: out, began: time.Now()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		show(ctx, r, in, out)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	r.say("Ending the router and the devices.")
	r.end()
	<-done
	lab.Cleanup()
	return r.failure()
}

func show(ctx context.Context, r *run, in, out *os.File) {
	r.say("Booting devices and VPN servers, in user-mode Linux. Ctrl-C ends everything.")
	l := lab.New(r, lab.Config{Settings: settings.Default(), Peers: true, Clients: devices, NoBoot: true, Stop: ctx.Done()})
	r.say("Booting the router, the image of qemu-mips on an emulated CPU.")
	l.Boot()
	st := l.Online()
	r.say("The router is up as %v on the Internet. Five devices ask for leases.", st.WAN.Address.Addr())
	for _, h := range l.C {
		l.Lease(h)
	}
	r.say("Starting libreswan on %s and pptpd on %s.", lab.Server2, lab.Server1)
	l.IPsecServer(l.S2, lab.Server2, "no")
	l.PPTPServer(l.S1)
	r.say("Dialling: laptop, phone, tablet native IPsec; desktop, scanner PPTP.")
	pptp := map[string]bool{}
	for _, h := range l.C[withIPsec:] {
		pptp[h.Name] = true
	}
	tunnels := lab.Together(r, l.C, func(h *peers.Host) (*lab.Tunnel, error) {
		if pptp[h.Name] {
			return l.PPTP(h, lab.Server1)
		}
		return l.IPsec(h, lab.Server2, "no")
	})
	for i, tu := range tunnels {
		if _, err := tu.Chatter(200 * (1 + i)); err != nil {
			r.Fatal(err)
		}
	}
	r.say("All tunnels are up and carry pings. On the router: %s", command)
	if err := watch(ctx, l, in, out); err != nil && ctx.Err() == nil {
		r.Fatalf("%s: %v", command, err)
	}
}
