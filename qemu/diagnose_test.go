package qemu

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// drop makes a host lose an IP protocol at a hook until the test ends.
func drop(t *testing.T, l *lab.Lab, h *peers.Host, protocol string, hooks ...string) {
	t.Helper()
	for _, hook := range hooks {
		l.Sh(h, "nft add table ip lossy; nft 'add chain ip lossy "+hook+" { type filter hook "+hook+" priority 0; }'; nft add rule ip lossy "+hook+" ip protocol "+protocol+" drop")
	}
	t.Cleanup(func() { l.Sh(h, "nft delete table ip lossy") })
}

// told asks the router while a client tries, and wants the cause, an order for
// how to go on in fix, and the part that shows it in evidence.
func told(t *testing.T, l *lab.Lab, ask, cause, fix string, part diagnose.Part, try ...string) api.Diagnosis {
	t.Helper()
	if try != nil {
		// Again and again: some clients try once and end.
		p, err := l.C[0].Start("sh", "-c", "while :; do "+strings.Join(try, " ")+"; sleep 2; done")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Stop()
	}
	out, err := l.Router.Command("diagnose vpn " + ask + " --json")
	if err != nil {
		t.Fatal(err)
	}
	var d api.Diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	t.Logf("%s: %s\n%s\n%+v", d.Cause, d.Text, d.Fix, d.Evidence)
	if d.Cause != cause || !strings.Contains(d.Fix, fix) || d.Name != "c1" {
		t.Errorf("told %q, fix %q, of %q; want %q, ...%q..., c1", d.Cause, d.Fix, d.Name, cause, fix)
	}
	if part != "" {
		var sent bool
		for _, e := range d.Evidence {
			sent = sent || e.Part == string(part) && e.PacketsOut > 0 && e.Age > 0
		}
		if !sent {
			t.Errorf("the evidence has no %s: %+v", part, d.Evidence)
		}
	}
	return d
}

// TestDiagnose: what `diagnose vpn` tells of real clients that fail, each for
// another reason.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	l.Online()
	l.Lease(l.C[0])
	step := func(name string, f func(*testing.T, *lab.Lab)) {
		t.Run(name, func(t *testing.T) { f(t, l.For(t)) })
	}
	pptp := []string{"timeout 40 pppd pty 'pptp " + lab.Server1 + " --nolaunchpppd' nodetach noauth user home password secret require-mppe-128 novj noipv6 nodefaultroute unit 7"}
	step("PPTP off", func(t *testing.T, l *lab.Lab) {
		l.PPTPServer(l.S1)
		l.Commit("set passthrough pptp off")
		defer l.Commit("set passthrough pptp on")
		told(t, l, "c1 "+lab.Server1+" pptp", diagnose.Off, "set passthrough pptp on; commit", "")
		told(t, l, "c1 "+lab.Server1, diagnose.Off, "set passthrough pptp on; commit", diagnose.Control, pptp...)
	})
	step("GRE dropped by the server", func(t *testing.T, l *lab.Lab) {
		l.PPTPServer(l.S1)
		drop(t, l, l.S1, "gre", "input", "output")
		d := told(t, l, "c1 www.example.com", diagnose.GRESilent, "IP protocol 47", diagnose.GRE, pptp...)
		if d.ServerName != "www.example.com" || d.Server.String() != lab.Server1 {
			t.Errorf("server %s, %s", d.ServerName, d.Server)
		}
	})
	step("ESP dropped on the way", func(t *testing.T, l *lab.Lab) {
		l.IPsecServer(l.S2, lab.Server2, "no")
		drop(t, l, l.ISP, "esp", "forward")
		done := make(chan error, 1)
		go func() {
			tu, err := l.IPsec(l.C[0], lab.Server2, "no")
			if err == nil {
				tu.Stop()
			}
			done <- err
		}()
		told(t, l, "c1 "+lab.Server2, diagnose.ESPSilent, "NAT traversal", diagnose.ESP)
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "carries nothing") {
				t.Errorf("the client's tunnel: %v; it should be up and carry nothing", err)
			}
		case <-time.After(2 * time.Minute):
			t.Error("the client does not end")
		}
	})
	step("no server", func(t *testing.T, l *lab.Lab) {
		drop(t, l, l.ISP, "udp", "forward")
		// The router remembers the step before, but that is not asked for.
		told(t, l, "c1 "+lab.Server2+" live", diagnose.Silent, "UDP 4500", diagnose.NATT, "echo hello | socat -t 0.1 - udp4-sendto:"+lab.Server2+":4500,sourceport=4500")
	})
	step("IPsec up, on the fast path", func(t *testing.T, l *lab.Lab) {
		l.IPsecServer(l.S2, lab.Server2, "auto")
		tu, err := l.IPsec(l.C[0], lab.Server2, "yes")
		if err != nil {
			t.Fatal(err)
		}
		defer tu.Stop()
		well(t, l, tu, lab.Server2, diagnose.NATT)
	})
	step("PPTP up", func(t *testing.T, l *lab.Lab) {
		l.PPTPServer(l.S1)
		tu, err := l.PPTP(l.C[0], lab.Server1)
		if err != nil {
			t.Fatal(err)
		}
		defer tu.Stop()
		well(t, l, tu, lab.Server1, diagnose.GRE)
	})
}

// well wants to be told that a tunnel is, while it is used.
func well(t *testing.T, l *lab.Lab, tu *lab.Tunnel, server string, part diagnose.Part) {
	t.Helper()
	ping, err := tu.Host.Start("ping", "-n", "-i", "0.5", "-I", tu.Local, tu.Remote)
	if err != nil {
		t.Fatal(err)
	}
	defer ping.Stop()
	if d := told(t, l, "c1 "+server, diagnose.Up, "", part); d.Fix != "" || len(d.Hints) != 0 {
		t.Errorf("all is well, but %q %q", d.Fix, d.Hints)
	}
}
