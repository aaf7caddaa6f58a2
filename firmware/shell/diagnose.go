package shell

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func diagnoseCommand() *Command {
	return &Command{Name: "diagnose", Help: "find out why something does not work", Sub: []*Command{
		{Name: "vpn", Args: "DEVICE SERVER [PROTOCOL] [live]", Help: "why a device's VPN does not come up", JSON: true, run: runDiagnoseVPN, complete: completeDiagnoseVPN,
			Doc: "DEVICE is a LAN device's address or name, SERVER an address or a name, PROTOCOL `pptp`, `l2tp`, `ipsec`, `sstp`, `openvpn` or `wireguard`; give `sstp` when the server is a web server as well. Looks at the last attempt; when that does not tell, or with `live`, it watches the packets of a new one for up to half a minute. The cause comes with what to do about it, and with the packets that show it."},
	}}
}

func runDiagnoseVPN(ctx context.Context, s *Shell, a args) error {
	words, live := a.words, false
	if n := len(words); n > 2 && words[n-1] == "live" {
		words, live = words[:n-1], true
	}
	if len(words) < 2 || len(words) > 3 {
		return a.usageError()
	}
	p := api.DiagnoseParams{Device: words[0]}
	server, err := s.resolve(ctx, words[1])
	if err != nil {
		return err
	}
	p.Server = server
	if server.String() != words[1] {
		p.ServerName = words[1]
	}
	if len(words) == 3 {
		p.Protocol = strings.ToLower(words[2])
	}
	var d api.Diagnosis
	if err := s.o.API.Call(ctx, api.MethodDiagnose, p, &d); err != nil {
		return err
	}
	if !d.Settled || live && d.Cause != diagnose.NoWAN {
		if err := s.watchVPN(ctx, p, &d, !a.json); err != nil {
			return err
		}
	}
	if a.json {
		return s.printJSON(d)
	}
	writeDiagnosis(s.c, d, s.width())
	return nil
}

// watchVPN has the router look at a new attempt. The person is told to start it
// once the router looks.
func (s *Shell) watchVPN(ctx context.Context, p api.DiagnoseParams, d *api.Diagnosis, tell bool) error {
	device := orElse(d.Name, addr(d.Device))
	return s.o.API.Stream(ctx, api.MethodDiagnoseWatch, p, func(raw json.RawMessage) error {
		var w api.Watching
		if err := json.Unmarshal(raw, &w); err != nil {
			return err
		}
		switch {
		case w.Found != nil:
			*d = *w.Found
		case tell:
			fmt.Fprintf(s.c, "Now start the VPN on %s; watching for up to 30 s. Ctrl-C ends it.\n", device)
		}
		return nil
	})
}

// writeDiagnosis tells the cause, what to do, and what was seen.
func writeDiagnosis(w io.Writer, d api.Diagnosis, width int) {
	fmt.Fprint(w, wrap(d.Text, "", width))
	if d.Fix != "" {
		fmt.Fprint(w, wrap("Fix: "+d.Fix, "", width))
	}
	for _, h := range d.Hints {
		fmt.Fprint(w, wrap("Note: "+h, "", width))
	}
	if len(d.Evidence) == 0 {
		return
	}
	t := newTable("SEEN", "PORTS", ">OUT", ">IN", ">BYTES OUT", ">BYTES IN", ">SINCE", ">LAST")
	for _, e := range d.Evidence {
		n := func(v uint64) string {
			if e.Uncounted {
				return "-"
			}
			return strconv.FormatUint(v, 10)
		}
		last := "-"
		if e.Watched || e.Last > 0 {
			last = age(e.Last.Truncate(time.Second))
		}
		t.add(e.Part, dash(e.Ports), n(e.PacketsOut), n(e.PacketsIn), n(e.BytesOut), n(e.BytesIn), age(e.Age), last)
	}
	t.write(w, width)
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// completeDiagnoseVPN offers the LAN's devices, and the protocols.
func completeDiagnoseVPN(ctx context.Context, s *Shell, words []string) []settings.Candidate {
	var cs []settings.Candidate
	watch := settings.Candidate{Word: "live", Help: "watch a new attempt"}
	switch len(words) {
	case 1:
		var ls []api.Lease
		if s.o.API.Call(ctx, api.MethodLeases, nil, &ls) != nil {
			return nil
		}
		for _, l := range ls {
			cs = append(cs, settings.Candidate{Word: orElse(l.Name, addr(l.Addr)), Help: addr(l.Addr)})
		}
	case 3:
		cs = []settings.Candidate{{Word: "pptp", Help: "PPTP"}, {Word: "l2tp", Help: "L2TP, also in IPsec"}, {Word: "ipsec", Help: "IPsec, with and without NAT traversal"},
			{Word: "sstp", Help: "SSTP, over TCP 443"}, {Word: "openvpn", Help: "OpenVPN, on any port"}, {Word: "wireguard", Help: "WireGuard, on any port"}, watch}
	case 4:
		cs = []settings.Candidate{watch}
	}
	return cs
}
