package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/culvert-fw/culvert/qemu/bench"
)

// child measures g in a process and a network namespace of its own: each group
// finds an empty namespace and a fresh heap, and leaves nothing to the next.
func child(ctx context.Context, g bench.Group, o options) bench.Result {
	result := bench.Result{Group: g.Name, Ground: g.Ground, Rows: []bench.Row{}}
	fail := func(format string, args ...any) bench.Result {
		result.Failed = fmt.Sprintf(format, args...)
		return result
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail("pipe: %v", err)
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-rows", o.rows, "-out", o.out, "-measure", g.Name)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stderr, os.Stderr, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	// Told to end it has time to end what it started.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fail("start in a network namespace of its own (as root?): %v", err)
	}
	decoded := json.NewDecoder(r).Decode(&result)
	if err := cmd.Wait(); err != nil {
		return fail("%v; its messages are above", err)
	}
	if decoded != nil {
		return fail("its rows: %v", decoded)
	}
	return result
}

// measure is what the child does, with its loopback up.
func measure(ctx context.Context, env *bench.Env, name string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	for _, g := range registry() {
		if g.Name == name {
			return json.NewEncoder(os.NewFile(3, "rows")).Encode(bench.Measure(ctx, g, env))
		}
	}
	return fmt.Errorf("no group %q", name)
}
