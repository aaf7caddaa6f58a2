package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/dnsload"
)

// dnsGroup is the name server beside dnsmasq, on the host.
func dnsGroup() []bench.Group {
	return []bench.Group{{
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
