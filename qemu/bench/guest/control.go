package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/qemu/bench/control"
)

func init() {
	add("control", func(ctx context.Context, p struct{ Rounds int }) (any, error) { return changes(ctx, p.Rounds) })
}

// changes measures what commits and a command take, of all processes but this one.
func changes(ctx context.Context, rounds int) (c control.Changes, err error) {
	pid, err := netd()
	if err != nil {
		return c, err
	}
	time.Sleep(control.StartUp)
	r := &control.Router{API: api.NewClient(socket), PID: pid, All: true}
	if c.Commit, err = control.Median(rounds, func(i int) (control.Cost, error) { return r.SetCache(ctx, 200+i) }); err != nil {
		return c, fmt.Errorf("a small setting: %w", err)
	}
	if c.Show, err = control.Median(rounds, func(int) (control.Cost, error) { return r.Command(ctx, "show status") }); err != nil {
		return c, err
	}
	c.Thousand, err = control.Median(rounds, func(int) (control.Cost, error) {
		if _, err := r.SetForwards(ctx, 0); err != nil && !errors.Is(err, control.ErrUnchanged) {
			return control.Cost{}, err
		}
		return r.SetForwards(ctx, 1000)
	})
	if err != nil {
		return c, fmt.Errorf("1000 forwards: %w", err)
	}
	if c.One, err = control.Median(rounds, func(i int) (control.Cost, error) { return r.AddForward(ctx, 1000+i) }); err != nil {
		return c, fmt.Errorf("one forward more: %w", err)
	}
	return c, nil
}

// netd is the process of the product's network manager.
func netd() (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, f := range all {
		b, err := os.ReadFile(f)
		name, _, _ := strings.Cut(string(b), "\x00")
		if err == nil && filepath.Base(name) == "netd" {
			return strconv.Atoi(filepath.Base(filepath.Dir(f)))
		}
	}
	return 0, errors.New("netd does not run")
}
