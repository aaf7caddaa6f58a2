package watch

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
	"github.com/culvert-fw/culvert/firmware/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestTicks changes each kind of state and waits for the tick.
func TestTicks(t *testing.T) {
	nstest.Require(t, "nft")
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for _, change := range []string{
		"ip link add watched type bridge",
		"ip link set watched up",
		"ip addr add 192.0.2.1/24 dev watched",
		"ip route add 198.51.100.0/24 via 192.0.2.2",
		"nft add table inet watched",
		"nft delete table inet watched",
		"ip link del watched",
	} {
		quiet(w)
		words := strings.Fields(change)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", change, err, out)
		}
		select {
		case <-w.C():
		case <-time.After(10 * time.Second):
			t.Errorf("no tick after %s", change)
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Run does not end")
	}
}

// TestOwnRules: what this process writes of the firewall is no event; what
// others write is, see TestTicks.
func TestOwnRules(t *testing.T) {
	nstest.Require(t)
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	quiet(w)
	c := nft.New(nft.Options{})
	for range 5 {
		if err := c.Apply(nil, &ruleset.Table{Chains: []ruleset.Chain{{Name: "c"}}}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.C():
		t.Error("a tick for our own rules")
	case <-time.After(300 * time.Millisecond):
	}
	if err := c.Apply(nil, nil); err != nil {
		t.Error(err)
	}
	cancel()
	<-done
}

// quiet waits until the ticks of the change before have all come.
func quiet(w *Watcher) {
	for {
		select {
		case <-w.C():
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

// TestOverflowIsATick drowns a socket that nobody reads and then reads it: the
// lost events must show as a tick, not as an error.
func TestOverflowIsATick(t *testing.T) {
	nstest.Require(t)
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.conns[0].SetReadBuffer(2048); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		nstest.IP(t, "link add drowned type bridge\nlink del drowned")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	select {
	case <-w.C():
	case err := <-done:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("no tick after an overflow")
	}
	quiet(w)
	nstest.IP(t, "link add after type bridge")
	select {
	case <-w.C():
	case err := <-done:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Error("no tick after the one for the overflow")
	}
	cancel()
	<-done
}
