package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/dnsload"
	"github.com/culvert-fw/culvert/qemu/bench/forward"
	"github.com/culvert-fw/culvert/qemu/bench/ground"
)

// dnsGroup is the name server beside dnsmasq, in the router and on the host.
func dnsGroup() []bench.Group {
	return []bench.Group{{
		Name: "name server in the router", Ground: bench.QEMUMIPS, Rows: []string{"dns-hit", "dns-miss"},
		Run: func(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
			r, err := dnsInRouter(ctx, env)
			if err != nil {
				return nil, err
			}
			return []bench.Row{
				dnsRow("dns-hit", "DNS, answers from the cache", bench.QEMUMIPS, r.Hit, 0.8, 1),
				dnsRow("dns-miss", "DNS, answers from the upstream", bench.QEMUMIPS, r.Miss, 1.2, 1.5),
			}, nil
		},
	}, {
		Name: "dns", Ground: bench.AMD64, Rows: []string{"dns-hit-amd64", "dns-miss-amd64"},
		Run: func(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
			culvert, err := buildNameServer(ctx, env)
			if err != nil {
				return nil, err
			}
			dnsmasq := "/usr/sbin/dnsmasq" // not in everybody's PATH
			if path, err := exec.LookPath("dnsmasq"); err == nil {
				dnsmasq = path
			}
			r, err := dnsload.Measure(ctx, dnsload.Options{Culvert: culvert, Dnsmasq: dnsmasq, Hits: 20000, Misses: 5000, Rounds: 5})
			if err != nil {
				return nil, err
			}
			return []bench.Row{
				dnsRow("dns-hit-amd64", "DNS, answers from the cache", bench.AMD64, r.Hit, 1.1, 1.3),
				dnsRow("dns-miss-amd64", "DNS, answers from the upstream", bench.AMD64, r.Miss, 1.8, 2),
			}, nil
		},
	}}
}

// dnsInRouter measures beside the router's own programs, with its rules.
func dnsInRouter(ctx context.Context, env *bench.Env) (r dnsload.Result, err error) {
	files, err := ground.Build(env.Root, env.Out, env.Log)
	if err != nil {
		return r, err
	}
	m, err := ground.Boot(ctx, ground.Options{Files: files, Settings: forward.Settings(), Mem: 128, Console: filepath.Join(env.Out, "dns.console")})
	if err != nil {
		return r, err
	}
	defer m.Stop()
	if err := m.Do(ctx, 5*time.Minute, "ready", map[string]int{"Seconds": 60}, nil); err != nil {
		return r, err
	}
	err = m.Do(ctx, 10*time.Minute, "dns", dnsload.Options{
		Culvert: "/nameserver", Dnsmasq: "/peers/dnsmasq", Hits: 2000, Misses: 1000, Rounds: 5,
	}, &r)
	return r, err
}

func dnsRow(id, what, ground string, r dnsload.Rate, bar, goal float64) bench.Row {
	return bench.Row{
		ID: id, What: what, Ground: ground, Unit: "queries/CPU s",
		Value: r.Culvert, Peer: r.Dnsmasq, PeerWhat: "dnsmasq", Ratio: r.Ratio,
		Bar: bench.Limit{Min: bar}, Goal: bench.Limit{Min: goal},
	}
}

// buildNameServer builds Culvert's name server with the compiler's flags that
// the images have.
func buildNameServer(ctx context.Context, env *bench.Env) (path string, err error) {
	path = filepath.Join(env.Out, "bin", "nameserver")
	build := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-l", "-gcflags=runtime=", "-o", path, "./qemu/bench/dnsload/server")
	build.Dir = env.Root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the name server: %w\n%s", err, out)
	}
	return path, nil
}
