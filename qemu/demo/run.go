package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/qemu/lab"
)

// run is who runs the lab when no test does. It is a lab.T.
type run struct {
	ctx   context.Context
	out   io.Writer
	began time.Time

	mu       sync.Mutex
	err      error // the first failure
	ended    bool
	cleanups []func()
}

var _ lab.T = (*run)(nil)

// say tells what happens now.
func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.out, "%4.0f s  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

func (r *run) Helper() {}

func (r *run) Logf(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// Errorf keeps the first failure. What fails after the person wanted the end is
// none.
func (r *run) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && r.ctx.Err() == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *run) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *run) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// Skipf is Fatalf: without what is missing there is nothing to show.
func (r *run) Skipf(format string, args ...any) { r.Fatalf(format, args...) }

func (r *run) Failed() bool { return r.failure() != nil }

func (r *run) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Cleanup keeps f for the end; after the end it calls f and ends the goroutine
// that went on.
func (r *run) Cleanup(f func()) {
	r.mu.Lock()
	late := r.ended
	if !late {
		r.cleanups = append(r.cleanups, f)
	}
	r.mu.Unlock()
	if late {
		f()
		runtime.Goexit()
	}
}

func (r *run) TempDir() string {
	dir, err := os.MkdirTemp("", "culvert-demo-")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// end calls what Cleanup kept, the latest first.
func (r *run) end() {
	r.mu.Lock()
	r.ended = true
	all := r.cleanups
	r.mu.Unlock()
	for _, f := range slices.Backward(all) {
		f()
	}
}
