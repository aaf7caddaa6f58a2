package control

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHost starts the real netd, and sees that what is measured is what happens.
func TestHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root with network namespaces")
	}
	for _, p := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip("missing capability: the program " + p)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	netd := filepath.Join(t.TempDir(), "netd")
	build := exec.CommandContext(ctx, "go", "build", "-o", netd, "../../../cmd/netd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	h, err := StartHost(ctx, netd, t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	c, err := h.SetForwards(ctx, 50)
	if err != nil || c.CPU <= 0 || c.Wall <= 0 || c.Written < 4096 {
		t.Errorf("50 forwards: %v, %v", c, err)
	}
	if s, n, err := h.Running(ctx); err != nil || n != 2 || len(s.Firewall.Forwards) != 50 {
		t.Errorf("revision %d: %v, %v", n, s, err)
	}
	if c, err := h.SetForwards(ctx, 50); !errors.Is(err, ErrUnchanged) {
		t.Errorf("the same again: %v, %v", c, err)
	}
	if c, err := h.Command(ctx, "show status"); err != nil || c.CPU <= 0 || c.Self <= 0 {
		t.Errorf("show status: %v, %v", c, err)
	}
	if c, err := h.Command(ctx, "show nothing"); err == nil {
		t.Errorf("no such command: %v", c)
	}
	t.Run("loss", func(t *testing.T) { testLoss(ctx, t, h) })
}

func testLoss(ctx context.Context, t *testing.T, h *Host) {
	l, err := h.Loss(ctx, 4, 2*batch)
	if err != nil || l.Lost != 0 || l.Leaked != 0 || l.Changes != 4 || l.Sent < 2*batch || l.Refused == 0 {
		t.Errorf("%+v, %v", l, err)
	}
	// Without the rules a stranger's packets arrive. Netd, which would repair
	// them, stands still meanwhile.
	if err := unix.Kill(h.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(h.PID, unix.SIGCONT) //nolint:errcheck // it may have ended
	var without Loss
	var done atomic.Bool
	done.Store(true)
	err = h.inside(func() error {
		if out, err := exec.Command("nft", "flush", "table", "inet", "culvert", ";", "delete", "table", "inet", "culvert").CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		return send(ctx, &without, 1, &done)
	})
	if err != nil || without.Leaked == 0 {
		t.Errorf("without rules: %+v, %v", without, err)
	}
	// A chain that drops all is loss.
	var closed Loss
	err = h.inside(func() error {
		if out, err := exec.Command("nft", "add table ip closed; add chain ip closed f { type filter hook forward priority 0; policy drop; }").CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		return send(ctx, &closed, 1, &done)
	})
	if err != nil || closed.Lost != batch {
		t.Errorf("with all dropped: %+v, %v", closed, err)
	}
}
