package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func init() {
	add("calibrate", func(_ context.Context, p struct{ Loops uint32 }) (any, error) { return calibrate(p.Loops) })
}

// Calibration relates the guest's clock to instructions.
type Calibration struct {
	Instructions uint64 // that the loop has
	Elapsed      uint64 // ns of the monotonic clock
}

// calibrate runs a loop whose instructions are known, some times: what interrupts it only adds. The
// time is not the scheduler's, which it brings up to date at ticks while a thread runs.
func calibrate(loops uint32) (Calibration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := time.Duration(math.MaxInt64)
	for range 20 {
		began := time.Now()
		loop(loops)
		best = min(best, time.Since(began))
	}
	return Calibration{uint64(loops) * loopInstructions, uint64(best)}, nil
}

// onCPU is how long the process or thread below /proc has run, in ns (Documentation/scheduler/sched-stats.rst).
func onCPU(dir string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, "schedstat"))
	if err != nil {
		return 0, err
	}
	ns, _, _ := strings.Cut(string(b), " ")
	return strconv.ParseUint(ns, 10, 64)
}

// kernelThread finds a thread of the kernel by its name.
func kernelThread(name string) (string, error) {
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return "", err
	}
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Dir(f), nil
		}
	}
	return "", fmt.Errorf("the kernel has no thread %s", name)
}
