package lab

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// Until repeats f until it succeeds and ends the test with f's last error when
// it does not within the limit. It is for what has no event on this side.
func (l *Lab) Until(what string, limit time.Duration, f func() error) {
	l.t.Helper()
	var gone <-chan struct{} // never, without a router
	if l.Router != nil {
		gone = l.Router.Done()
	}
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		select {
		case <-gone:
			l.t.Fatalf("%s: the router's machine ended; vmrun said:\n%s", what, l.Router.stderr.String())
		case <-l.cfg.Stop:
			l.t.Fatalf("%s: stopped: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Ready waits until the router answers the admin on the LAN.
func (l *Lab) Ready() *api.Status {
	l.t.Helper()
	var st *api.Status
	l.Until("the router's shell on the LAN", 90*time.Second, func() (err error) {
		st, err = l.Status()
		return err
	})
	return st
}

// Online waits until the router also has its WAN lease.
func (l *Lab) Online() *api.Status {
	l.t.Helper()
	st := l.Ready()
	l.Until("the router's WAN", 60*time.Second, func() (err error) {
		if st, err = l.Status(); err != nil {
			return err
		}
		if !st.WAN.Up || !st.WAN.Address.IsValid() {
			return fmt.Errorf("WAN is %+v", st.WAN)
		}
		return nil
	})
	return st
}

// Status is the router's `show status`.
func (l *Lab) Status() (*api.Status, error) {
	st := new(api.Status)
	return st, l.Show("status", st)
}

// Show reads what `show WHAT --json` prints into v.
func (l *Lab) Show(what string, v any) error {
	if what != "history" {
		what = "show " + what
	}
	out, err := l.Router.Command(what + " --json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("%s --json: %w:\n%s", what, err, out)
	}
	return nil
}

// Lease makes a LAN host ask for an address with udhcpc, under its own name,
// and returns the address.
func (l *Lab) Lease(h *peers.Host) string {
	l.t.Helper()
	return l.lease(h, "-s /etc/udhcpc/default.script")
}

// Address is the address that Lease got for a LAN host.
func (l *Lab) Address(h *peers.Host) string { return l.addrs[h.Name] }

// Commit changes settings in one session and wants that to succeed.
func (l *Lab) Commit(lines ...string) string {
	l.t.Helper()
	out, err := l.Router.Configure(lines...)
	if err != nil {
		l.t.Fatalf("commit: %v\n%s", err, out)
	}
	return out
}

// KillService ends one of the router's services with SIGKILL, as a crash does.
func (l *Lab) KillService(name string) {
	l.t.Helper()
	if out, err := l.Router.Command("restart " + name); err != nil {
		l.t.Fatalf("restart %s: %v\n%s", name, err, out)
	}
}
