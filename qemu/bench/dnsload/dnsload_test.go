package dnsload

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func programs(t *testing.T) Options {
	t.Helper()
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		if dnsmasq, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			t.Skip("needs dnsmasq (package dnsmasq-base)")
		}
	}
	culvert := filepath.Join(t.TempDir(), "server")
	if out, err := exec.Command("go", "build", "-o", culvert, "./server").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return Options{Culvert: culvert, Dnsmasq: dnsmasq, Hits: 1000, Misses: 200, Rounds: 2}
}

// TestMeasure: both servers answer all of it, and a miss costs both of them more.
func TestMeasure(t *testing.T) {
	r, err := Measure(t.Context(), programs(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Hit.Ratio <= 0 || r.Miss.Ratio <= 0 || r.Hit.Culvert <= r.Miss.Culvert || r.Hit.Dnsmasq <= r.Miss.Dnsmasq {
		t.Errorf("%+v", r)
	}
}

// TestServerThatEnds is told with what it said.
func TestServerThatEnds(t *testing.T) {
	o := programs(t)
	o.Dnsmasq = "/bin/false"
	if _, err := Measure(t.Context(), o); err == nil || !strings.Contains(err.Error(), "dnsmasq ended") {
		t.Error(err)
	}
	o.Dnsmasq, o.CulvertArgs = o.Culvert, []string{"-upstream", "nowhere"}
	if _, err := Measure(t.Context(), o); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Error(err)
	}
}

// TestNotHits: names that the server does not keep are no hits, and are not
// counted as such.
func TestNotHits(t *testing.T) {
	o := programs(t)
	o.CulvertArgs = []string{"-cache", "-1"}
	if _, err := Measure(t.Context(), o); err == nil || !strings.Contains(err.Error(), "culvert: hits: 1000 queries made 1000 to the upstream, want 0") {
		t.Error(err)
	}
}

// TestWrongAnswers: what is no answer to the question ends the measurement.
func TestWrongAnswers(t *testing.T) {
	for name, change := range map[string]func(msg []byte) []byte{
		"id":       func(m []byte) []byte { m[0] ^= 1; return m },
		"query":    func(m []byte) []byte { m[2] &^= 0x80; return m },
		"rcode":    func(m []byte) []byte { m[3] |= 2; return m },
		"name":     func(m []byte) []byte { m[headerLen+1] ^= 1; return m },
		"address":  func(m []byte) []byte { m[len(m)-1] ^= 1; return m },
		"cut":      func(m []byte) []byte { return m[:headerLen-1] },
		"no count": func(m []byte) []byte { m[7] = 0; return m },
	} {
		c, err := newClient(answering(t, change))
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if err := c.ask(t.Context(), names{"a", 10}, 10); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	c, err := newClient(answering(t, func(m []byte) []byte { return m }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.ask(t.Context(), names{"a", 10}, 100); err != nil {
		t.Error(err)
	}
}

// TestCancel: the client does not go on when it is told to end.
func TestCancel(t *testing.T) {
	c, err := newClient(upstreamAt) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.ask(ctx, names{"a", 1}, 1); err == nil {
		t.Error("no error")
	}
}

func TestMedian(t *testing.T) {
	r := rates{{10, 20, 60}, {10, 10, 15}}.median()
	if r != (Rate{Culvert: 20, Dnsmasq: 10, Ratio: 2}) {
		t.Errorf("%+v", r)
	}
}

// answering is an upstream between which and the client change stands.
func answering(t *testing.T, change func([]byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 2*maxMessage)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf[:maxMessage])
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(change(answer(buf[:n])), from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}
