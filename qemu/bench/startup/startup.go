// Package startup measures the router's start, its size and the memory that it needs.
package startup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/forward"
	"github.com/culvert-fw/culvert/qemu/bench/ground"
)

// Group measures what there is before the first packet.
func Group() bench.Group {
	return bench.Group{
		Name: "start and size", Ground: bench.QEMUMIPS,
		Rows: []string{"startup", "memory-idle", "memory-least", "size-rootfs", "size-kernel"},
		Run:  run,
	}
}

// wait bounds a request, by the host's clock.
const wait = 5 * time.Minute

func run(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
	files, err := ground.Build(env.Root, env.Out, env.Log)
	if err != nil {
		return nil, err
	}
	rows, err := sizes(files)
	if err != nil {
		return rows, err
	}
	if env.Wants("startup") || env.Wants("memory-idle") {
		more, err := start(ctx, env, files)
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	if env.Wants("memory-least") {
		least, err := least(ctx, env, files)
		if err != nil {
			return rows, err
		}
		rows = append(rows, bench.Row{ID: "memory-least", What: "least RAM in which it boots and routes", Ground: bench.QEMUMIPS, Unit: "B",
			Value: float64(least) * (1 << 20), Bar: bench.Limit{Max: 64 << 20}, Goal: bench.Limit{Max: 32 << 20}, Note: fmt.Sprintf("%d MiB; in steps of 4, with the measuring program beside the router", least)})
	}
	return rows, nil
}

// sizes are the product's files, as `make image` has them.
func sizes(f *ground.Files) ([]bench.Row, error) {
	var rows []bench.Row
	for _, s := range []struct {
		id, file, what string
		bar, goal      float64
	}{
		{"size-rootfs", "rootfs.squashfs", "root file system", float64(f.Board.Limits.RootFS), 3e6},
		{"size-kernel", "kernel", "kernel", float64(f.Board.Limits.Kernel), 2.4e6},
	} {
		fi, err := os.Stat(filepath.Join(f.Image, s.file))
		if err != nil {
			return rows, err
		}
		rows = append(rows, bench.Row{ID: s.id, What: s.what, Ground: bench.QEMUMIPS, Unit: "B", Value: float64(fi.Size()),
			Bar: bench.Limit{Max: s.bar}, Goal: bench.Limit{Max: s.goal}})
	}
	return rows, nil
}

// took is the guest's.
type took struct {
	CPU, Elapsed uint64
	When, Tasks  map[string]uint64
}

// boot boots with a device on the LAN and waits until it is served.
func boot(ctx context.Context, env *bench.Env, files *ground.Files, data string) (*ground.Machine, took, error) {
	var s took
	m, err := ground.Boot(ctx, ground.Options{Files: files, Settings: forward.Settings(), Home: true, Data: data, Console: filepath.Join(env.Out, "startup.console")})
	if err != nil {
		return nil, s, err
	}
	if err := m.Do(ctx, wait, "startup", map[string]int{"Seconds": 200}, &s); err != nil {
		m.Stop()
		return nil, s, err
	}
	env.Logf("CPU in ns: %d, by program %v", s.CPU, s.Tasks)
	return m, s, nil
}

// start boots twice: the first start ever makes /data, which is not what a start costs.
func start(ctx context.Context, env *bench.Env, files *ground.Files) ([]bench.Row, error) {
	dir, err := os.MkdirTemp("", "culvert-bench-startup-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "data.img")
	env.Logf("the first start, with a device on the LAN")
	m, _, err := boot(ctx, env, files, data)
	if err != nil {
		return nil, err
	}
	m.Stop()
	env.Logf("the second")
	m, s, err := boot(ctx, env, files, data)
	if err != nil {
		return nil, err
	}
	defer m.Stop()
	perNS, err := m.Calibrate(ctx)
	if err != nil {
		return nil, err
	}
	var order []string
	for name := range s.When {
		order = append(order, name)
	}
	slices.SortFunc(order, func(a, b string) int { return int(int64(s.When[a]) - int64(s.When[b])) })
	for i, name := range order {
		order[i] = fmt.Sprintf("%s after %.2f s", name, float64(s.When[name])/1e9)
	}
	rows := []bench.Row{{ID: "startup", What: "PID 1 to LAN, NAT, DHCP and DNS answer", Ground: bench.QEMUMIPS, Unit: "insn",
		Value: float64(s.CPU) * perNS, Bar: bench.Limit{Max: 80e6}, Goal: bench.Limit{Max: 60e6},
		Note: "of the guest's clock, with waits: " + strings.Join(order, ", ")}}
	var idle float64
	if err := m.Do(ctx, wait, "idle-memory", map[string]int{"Seconds": 30}, &idle); err != nil {
		return rows, err
	}
	return append(rows, bench.Row{ID: "memory-idle", What: "anonymous memory of all programs, idle", Ground: bench.QEMUMIPS, Unit: "B",
		Value: idle, Bar: bench.Limit{Max: 8e6}, Goal: bench.Limit{Max: 4e6}}), nil
}

// least finds the smallest memory with which a flow passes, in MiB.
func least(ctx context.Context, env *bench.Env, files *ground.Files) (int, error) {
	found := 0
	for mem := 64; mem >= 20; mem -= 4 {
		if err := forward.Routes(ctx, env, files, mem); err != nil {
			if ctx.Err() != nil || found == 0 {
				return 0, fmt.Errorf("with %d MiB: %w", mem, err)
			}
			env.Logf("%d MiB: %.200s", mem, err)
			return found, nil
		}
		env.Logf("%d MiB: routes", mem)
		found = mem
	}
	return found, nil
}
