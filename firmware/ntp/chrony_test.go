package ntp

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestChrony: chrony serves this machine's time to a clock that is decades
// behind.
func TestChrony(t *testing.T) {
	nstest.Require(t, "chronyd")
	peer := nstest.NewPeer(t, "wan0", "srv0")
	peer.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "srv0")
	nstest.IP(t, "addr add 192.0.2.2/24 dev wan0")
	dir := t.TempDir()
	// -x: it must not touch the clock.
	server := peer.Start("chronyd", "-d", "-x", "-u", "root", "local stratum 10", "allow all", "cmdport 0",
		"bindcmdaddress /", "pidfile "+filepath.Join(dir, "pid"))
	server.Expect(0, "chronyd version")

	behind := func() time.Time { return time.Now().AddDate(-50, 0, 0) }
	set := make(chan time.Time, 1)
	c, err := New(Options{
		Servers: []string{"192.0.2.1"}, NotBefore: build.AddDate(-1, 0, 0), Now: behind,
		Set: func(at time.Time) error { set <- at; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go c.Run(ctx)
	select {
	case at := <-set:
		if off := time.Since(at).Abs(); off > time.Second {
			t.Errorf("clock set %v off", off)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("clock not set; status %+v", c.Status())
	}
}
