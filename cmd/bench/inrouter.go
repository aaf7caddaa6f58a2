package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/control"
	"github.com/culvert-fw/culvert/qemu/bench/forward"
	"github.com/culvert-fw/culvert/qemu/bench/ground"
)

// controlInRouter is what commits and a command of the shell cost in the router.
func controlInRouter() bench.Group {
	return bench.Group{
		Name: "control in the router", Ground: bench.QEMUMIPS, Rows: []string{"control-1000", "control-one", "control-show", "control-commit"},
		Run: func(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
			c, perNS, err := changesInRouter(ctx, env)
			if err != nil {
				return nil, err
			}
			row := func(id, what string, cpu time.Duration, wall time.Duration, bar, goal float64) bench.Row {
				return bench.Row{ID: id, What: what, Ground: bench.QEMUMIPS, Unit: "insn", Value: float64(cpu) * perNS,
					Bar: bench.Limit{Max: bar}, Goal: bench.Limit{Max: goal},
					Note: fmt.Sprintf("All processes and the kernel's threads; %.1f ms of the guest's clock from the request to the answer, with waits.", milliseconds(wall))}
			}
			return []bench.Row{
				row("control-1000", "1000 port forwards, from the commit to the kernel", c.Thousand.CPU, c.Thousand.Wall, 30e6, 20e6),
				row("control-one", "one port forward more in a table of 1000, from the commit to the kernel", c.One.CPU, c.One.Wall, 1e6, 0.5e6),
				row("control-show", "show status, the shell's side and netd's", c.Show.CPU+c.Show.Self, c.Show.Wall, 5e6, 2e6),
				row("control-commit", "a commit of one small setting", c.Commit.CPU, c.Commit.Wall, 1e6, 0.5e6),
			}, nil
		},
	}
}

func changesInRouter(ctx context.Context, env *bench.Env) (c control.Changes, perNS float64, err error) {
	files, err := ground.Build(env.Root, env.Out, env.Log)
	if err != nil {
		return c, 0, err
	}
	m, err := ground.Boot(ctx, ground.Options{Files: files, Settings: forward.Settings(), Mem: 128, Console: filepath.Join(env.Out, "control.console")})
	if err != nil {
		return c, 0, err
	}
	defer m.Stop()
	if err := m.Do(ctx, 5*time.Minute, "ready", map[string]int{"Seconds": 60}, nil); err != nil {
		return c, 0, err
	}
	if perNS, err = m.Calibrate(ctx); err != nil {
		return c, 0, err
	}
	err = m.Do(ctx, 10*time.Minute, "control", map[string]int{"Rounds": 7}, &c)
	return c, perNS, err
}
