package shell

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
)

func runShowProtection(ctx context.Context, s *Shell, a args) error {
	return showLive(ctx, s, a, api.MethodProtection, writeProtection)
}

// proseWidth keeps sentences readable on a wide terminal and without one.
const proseWidth = 100

func writeProtection(w io.Writer, p api.Protection, width int) {
	width = min(width, proseWidth)
	fmt.Fprint(w, wrap("Internet: "+behindText(p), "", width))
	if len(p.Devices) == 0 {
		fmt.Fprintln(w, "No device on the LAN has a connection to the Internet.")
	}
	for _, d := range p.Devices {
		name := addr(d.Device)
		if d.Name != "" {
			name = d.Name + " (" + name + ")"
		}
		fmt.Fprintln(w, name)
		for i, r := range d.Reasons {
			if i == 0 {
				r = d.State + ": " + r
			}
			fmt.Fprint(w, wrap(r, "  ", width))
		}
		if len(d.Tunnels) > 0 && d.State != "protected" {
			fmt.Fprint(w, wrap("beside a tunnel: "+strings.Join(d.Tunnels, ", "), "  ", width))
		}
	}
}

// behindText is the router's address, and what the NAT before it means.
func behindText(p api.Protection) string {
	switch p.Behind {
	case "":
		return "no address; see why: show status"
	case "cgnat":
		return addr(p.Address) + ", behind the provider's NAT (CGNAT, RFC 6598). Nobody can call in, port forwards have no effect. Ask the provider for a public IPv4 address."
	case "nat":
		return addr(p.Address) + ", a private address: another router before this one does NAT as well. Set that one to bridge mode, or forward ports there too."
	}
	return addr(p.Address) + ", not behind another NAT by its looks"
}
