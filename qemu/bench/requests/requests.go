// Package requests measures netd on the MIPS CPU that QEMU counts, as package control does on the host.
package requests

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

// Group measures what netd does for a person.
func Group() bench.Group {
	return bench.Group{
		Name: "control on the router", Ground: bench.QEMUMIPS,
		Rows: []string{"control-1000", "control-one", "control-commit", "control-show"},
		Run:  run,
	}
}

// wait bounds a request, by the host's clock.
const wait = 8 * time.Minute

func run(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
	files, err := ground.Build(env.Root, env.Out, env.Log)
	if err != nil {
		return nil, err
	}
	m, err := ground.Boot(ctx, ground.Options{Files: files, Settings: forward.Settings(), Mem: 128, Console: filepath.Join(env.Out, "requests.console")})
	if err != nil {
		return nil, err
	}
	defer m.Stop()
	if err := m.Do(ctx, wait, "ready", map[string]int{"Seconds": 60}, nil); err != nil {
		return nil, err
	}
	// What netd does once after its start is not the requests'.
	if err := m.Do(ctx, wait, "idle-memory", map[string]int{"Seconds": 15}, nil); err != nil {
		return nil, err
	}
	perNS, err := m.Calibrate(ctx)
	if err != nil {
		return nil, err
	}
	return ask(ctx, env, m, perNS)
}

// ask asks netd what a person does.
func ask(ctx context.Context, env *bench.Env, m *ground.Machine, perNS float64) (rows []bench.Row, err error) {
	for _, r := range []struct {
		id, what, do string
		n, rounds    int
		bar, goal    float64
	}{
		{"control-commit", "a commit of one small setting", "commit", 0, 5, 1e6, 0.5e6},
		{"control-show", "show status, the shell's side and netd's", "show", 0, 5, 5e6, 2e6},
		{"control-1000", "1000 port forwards, from the commit to the kernel", "forwards", 1000, 3, 30e6, 20e6},
		{"control-one", "one port forward more in a table of 1000", "one", 5000, 5, 1e6, 0.5e6},
	} {
		if !env.Wants(r.id) && r.id != "control-1000" { // the one more needs the thousand
			continue
		}
		env.Logf("%s", r.what)
		var c control.Cost
		if err := m.Do(ctx, wait, "control", map[string]any{"What": r.do, "N": r.n, "Rounds": r.rounds}, &c); err != nil {
			return rows, fmt.Errorf("%s: %w", r.id, err)
		}
		cpu := c.CPU
		if r.do == "show" {
			cpu += c.Self
		}
		rows = append(rows, bench.Row{ID: r.id, What: r.what, Ground: bench.QEMUMIPS, Unit: "insn", Value: float64(cpu) * perNS,
			Bar: bench.Limit{Max: r.bar}, Goal: bench.Limit{Max: r.goal},
			Note: fmt.Sprintf("of everything that runs; the answer comes after %.0f ms of the guest's clock, with waits", float64(c.Wall)/1e6)})
	}
	return rows, nil
}
