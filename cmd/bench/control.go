package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/control"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
)

// controlGroups are commits of settings, from the API socket to the kernel and
// the disk, of a netd in a network namespace of the host.
func controlGroups() []bench.Group {
	return []bench.Group{{
		Name: "control", Ground: bench.AMD64,
		Rows: []string{"control-1000-amd64", "control-one-amd64", "control-10000-amd64", "control-memory-amd64",
			"control-commit-amd64", "control-written-amd64", "control-show-amd64"},
		Run: func(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
			var rows []bench.Row
			err := withNetd(ctx, env, func(h *control.Host) (err error) {
				rows, err = controlRows(ctx, h)
				return err
			})
			return rows, err
		},
	}, {
		Name: "changes", Ground: bench.AMD64, Rows: []string{"control-loss-amd64"},
		Run: func(ctx context.Context, env *bench.Env) (rows []bench.Row, err error) {
			err = withNetd(ctx, env, func(h *control.Host) error {
				l, err := h.Loss(ctx, 40, 1_000_000)
				rows = []bench.Row{{ID: "control-loss-amd64", What: "packets lost or passed unfiltered during 40 changes", Ground: bench.AMD64,
					Unit: "packets", Value: float64(l.Lost + l.Leaked), Bar: bench.Limit{Zero: true}, Goal: bench.Limit{Zero: true},
					Note: fmt.Sprintf("%d of %d that the policy lets through were lost, %d of %d that it must drop arrived.", l.Lost, l.Sent, l.Leaked, l.Refused)}}
				return err
			})
			return rows, err
		},
	}}
}

// withNetd builds netd as the images have it, starts it, and ends it after f.
func withNetd(ctx context.Context, env *bench.Env, f func(*control.Host) error) error {
	netd := filepath.Join(env.Out, "bin", "netd")
	build := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-l", "-gcflags=runtime=", "-o", netd, "./cmd/netd")
	build.Dir, build.Env = env.Root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build netd: %w\n%s", err, out)
	}
	dir, err := os.MkdirTemp(env.Out, "netd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log, err := os.Create(filepath.Join(env.Out, "netd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	h, err := control.StartHost(ctx, netd, dir, log)
	if err != nil {
		return err
	}
	defer h.Stop()
	return f(h)
}

func controlRows(ctx context.Context, h *control.Host) ([]bench.Row, error) {
	const rounds = 9
	commit, err := control.Median(rounds, func(i int) (control.Cost, error) { return h.SetCache(ctx, 200+i) })
	if err != nil {
		return nil, err
	}
	show, err := control.Median(rounds, func(int) (control.Cost, error) { return h.Command(ctx, "show status") })
	if err != nil {
		return nil, err
	}
	many := func(n int) (control.Cost, error) {
		return control.Median(rounds, func(int) (control.Cost, error) {
			if _, err := h.SetForwards(ctx, 0); err != nil && !errors.Is(err, control.ErrUnchanged) {
				return control.Cost{}, err
			}
			return h.SetForwards(ctx, n)
		})
	}
	thousand, err := many(1000)
	if err != nil {
		return nil, err
	}
	one, err := control.Median(rounds, func(i int) (control.Cost, error) { return h.AddForward(ctx, 1000+i) })
	if err != nil {
		return nil, err
	}
	tenThousand, err := many(10000)
	if err != nil {
		return nil, err
	}
	nft, err := linear.Loader{Rounds: 3, LAN: "lan0", WAN: "wan0"}.Replace(ctx, 1000)
	if err != nil {
		return nil, err
	}
	row := func(id, what string, c control.Cost, bar, goal float64) bench.Row {
		return bench.Row{ID: id, What: what, Ground: bench.AMD64, Unit: "ms", Value: milliseconds(c.CPU),
			Bar: bench.Limit{Max: bar}, Goal: bench.Limit{Max: goal},
			Note: fmt.Sprintf("CPU time of netd. The answer comes after %.1f ms, waits for the disk and the kernel included.", milliseconds(c.Wall))}
	}
	first := row("control-1000-amd64", "1000 port forwards, from the commit to the kernel", thousand, 15, 0)
	first.Peer, first.PeerWhat = milliseconds(nft[0].CPU), "nft -f of the linear rules"
	first.Ratio = first.Peer / first.Value
	status := row("control-show-amd64", "show status, the shell's side and netd's", show, 0, 0)
	status.Value += milliseconds(show.Self)
	return []bench.Row{first,
		row("control-one-amd64", "one port forward more in a table of 1000, from the commit to the kernel", one, 0.3, 0),
		row("control-10000-amd64", "10,000 port forwards, from the commit to the kernel", tenThousand, 50, 0),
		bytesRow("control-memory-amd64", "10,000 port forwards: netd's peak over idle", tenThousand.Peak, 16e6, 12e6),
		row("control-commit-amd64", "a commit of one small setting", commit, 0, 0),
		bytesRow("control-written-amd64", "a commit of one small setting: bytes written", commit.Written, 40<<10, 16<<10),
		status,
	}, nil
}

func bytesRow(id, what string, v int64, bar, goal float64) bench.Row {
	return bench.Row{ID: id, What: what, Ground: bench.AMD64, Unit: "B", Value: float64(max(v, 0)),
		Bar: bench.Limit{Max: bar}, Goal: bench.Limit{Max: goal}}
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }
