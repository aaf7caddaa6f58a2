package dhcp4d

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
)

// TestNameByMAC: a device that has a name and no fixed address gets any
// address, and nobody else the name.
func TestNameByMAC(t *testing.T) {
	phone := []Static{{MAC: mac(1), Name: "phone"}, {MAC: mac(2), Name: "tv"}}
	bubble(t, func(o *Options) { o.Config.Static = phone }, func(t *testing.T, l *lan) {
		for n, want := range map[int]string{1: "phone", 2: "tv", 3: "phone-2"} {
			h := l.host(n)
			h.name = "phone"
			a := h.get()
			if x := l.lease(a); x == nil || x.Hostname != want || x.Static || !l.Server.t.cfg.inPool(a) {
				t.Errorf("device %d: %+v, want the name %s", n, x, want)
			}
			h.renew(a)
			if again := h.get(); again != a {
				t.Errorf("device %d: %s, then %s", n, a, again)
			}
		}
	})
}

// TestSquatting: no device gets a name that others look up and trust, however
// it asks for it and whenever it became one, and the log says so once.
func TestSquatting(t *testing.T) {
	var log bytes.Buffer
	bubble(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) }, func(t *testing.T, l *lan) {
		for n, name := range []string{"wpad", "WPAD.lan", "isatap", "localhost", "localhost.localdomain", "culvert", "Culvert."} {
			h := l.host(n + 1)
			h.name = name
			a := h.get()
			if x := l.lease(a); x == nil || x.Hostname != "" {
				t.Errorf("%s: %+v, want a lease without a name", name, x)
			}
			h.renew(a)
			h.renew(a)
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "a name that others trust"); n != 7 {
			t.Errorf("told %d times of 7 devices:\n%s", n, log.String())
		}
		h := l.host(20)
		h.name = "attic"
		a := h.get()
		if x := l.lease(a); x.Hostname != "attic" {
			t.Fatalf("%+v", x)
		}
		// The router takes the name of a device.
		c := config()
		c.Reserved = []string{"Attic", "culvert"}
		if err := l.SetConfig(c); err != nil {
			t.Fatal(err)
		}
		if x := l.lease(a); x == nil || x.Hostname != "" {
			t.Errorf("after the router took the name: %+v", x)
		}
		// The admin may give such a name: a proxy configuration of his own.
		c.Static = []Static{{MAC: mac(1), Addr: ip("192.168.1.10"), Name: "wpad"}}
		if err := l.SetConfig(c); err != nil {
			t.Fatal(err)
		}
		if x := l.lease(l.host(1).get()); x == nil || x.Hostname != "wpad" {
			t.Errorf("a configured name: %+v", x)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		store := &memStore{}
		l := start(t, func(o *Options) { o.Config.Reserved, o.Store = nil, store })
		h := l.host(1)
		h.name = "culvert"
		a := h.get()
		l.stop()
		l = start(t, func(o *Options) { o.Store = store })
		defer l.stop()
		if x := l.lease(a); x == nil || x.Hostname != "" {
			t.Errorf("a stored name that is reserved now: %+v", x)
		}
	})
}
