package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
)

// socket is netd's in the product's root, which is not this program's.
const socket = "/proc/1/root" + api.Socket

func init() {
	add("ready", func(ctx context.Context, p struct{ Seconds int }) (any, error) { return ready(ctx, p.Seconds) })
	add("commit", func(ctx context.Context, p struct{ Settings json.RawMessage }) (any, error) {
		return commit(ctx, p.Settings)
	})
	add("pause", func(_ context.Context, p struct{ Stop bool }) (any, error) { return nil, pause(p.Stop) })
	add("run", func(ctx context.Context, p Command) (any, error) { return p.run(ctx) })
	add("read", func(_ context.Context, p struct{ File string }) (any, error) {
		b, err := os.ReadFile(p.File)
		return string(b), err
	})
	add("write", func(_ context.Context, p struct{ File, Text string }) (any, error) {
		return nil, os.WriteFile(p.File, []byte(p.Text), 0o600)
	})
}

// ready waits until netd answers, the LAN has its address and the ruleset is in.
func ready(ctx context.Context, seconds int) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	c := api.NewClient(socket)
	for {
		var s api.Status
		err := errors.Join(c.Call(ctx, api.MethodStatus, nil, &s), lanUp(), natIn())
		if err == nil && s.WAN.Address.IsValid() {
			return &s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the router is not ready after %d s: %v, %+v", seconds, err, s)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// commit makes settings the running ones.
func commit(ctx context.Context, settings json.RawMessage) (*api.CommitReply, error) {
	c := api.NewClient(socket)
	var now api.SettingsReply
	if err := c.Call(ctx, api.MethodSettings, api.RevisionParams{}, &now); err != nil {
		return nil, err
	}
	var r api.CommitReply
	err := c.Call(ctx, api.MethodCommit, api.CommitParams{Base: now.Revision, Settings: settings, Author: api.Author{Via: "serial"}}, &r)
	var e *api.Error
	if errors.As(err, &e) && len(e.Problems) > 0 {
		return nil, fmt.Errorf("%w: %v", err, e.Problems)
	}
	return &r, err
}

// pause stops the product's processes, or lets them go on. While they are stopped the kernel is as
// they left it, and nobody mends what a measurement changes in it.
func pause(stop bool) error {
	sig := unix.SIGCONT
	if stop {
		sig = unix.SIGSTOP
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, f := range all {
		b, err := os.ReadFile(f)
		name, _, _ := strings.Cut(string(b), "\x00")
		if err != nil || (filepath.Base(name) != "netd" && filepath.Base(name) != "edge") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(f, "/proc/%d/", &pid); err != nil {
			return err
		}
		if err := unix.Kill(pid, sig); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// Command is a program to run, one of the peers.
type Command struct {
	Argv  []string
	Stdin string
}

func (c Command) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Stdin = strings.NewReader(c.Stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(c.Argv, " "), err, out)
	}
	return string(out), nil
}
