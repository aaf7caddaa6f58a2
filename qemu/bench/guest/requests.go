package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/qemu/bench/control"
)

func init() {
	add("control", func(ctx context.Context, c Control) (any, error) { return c.run(ctx) })
}

// Control is a request to netd, and how often it is measured; the median counts.
type Control struct {
	What   string // "forwards", "one", "commit" or "show"
	N      int    // of forwards
	Rounds int
}

func (c Control) run(ctx context.Context) (control.Cost, error) {
	pid, err := processOf("netd")
	if err != nil {
		return control.Cost{}, err
	}
	r := &control.Router{API: api.NewClient(socket), PID: pid, All: true}
	return control.Median(c.Rounds, func(i int) (control.Cost, error) {
		switch c.What {
		case "forwards":
			if _, err := r.SetForwards(ctx, 0); err != nil && !errors.Is(err, control.ErrUnchanged) {
				return control.Cost{}, err
			}
			return r.SetForwards(ctx, c.N)
		case "one":
			return r.AddForward(ctx, c.N+i)
		case "commit":
			return r.SetCache(ctx, 200+i)
		case "show":
			return r.Command(ctx, "show status")
		}
		return control.Cost{}, fmt.Errorf("%q cannot be asked of netd", c.What)
	})
}

// processOf is the process whose program has that name.
func processOf(name string) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
			return strconv.Atoi(filepath.Base(filepath.Dir(f)))
		}
	}
	return 0, fmt.Errorf("there is no process %s", name)
}
