package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-fw/culvert/firmware/transcript"
	"github.com/culvert-fw/culvert/qemu/peers"
)

var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}

// serveHost is the agent inside one host's namespaces: it answers requests on
// stdin until that closes.
func serveHost(name string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	dst := "/hosts/" + name
	if err := overlay(name, dst); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return err
	}
	if err := os.WriteFile(dst+"/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	r := newRunner(dst)
	var mu sync.Mutex
	enc := json.NewEncoder(os.Stdout)
	dec := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var req peers.Request
		if err := dec.Decode(&req); err != nil {
			return err
		}
		go func() {
			reply := r.do(req)
			reply.ID = req.ID
			mu.Lock()
			defer mu.Unlock()
			enc.Encode(reply)
		}()
	}
}

// runner runs programs chrooted into one host's root.
type runner struct {
	root    string
	traffic traffic
	mu      sync.Mutex
	bg      map[int]*background
}

// background is a program started with "start".
type background struct {
	cmd  *exec.Cmd
	out  transcript.Buffer
	done chan struct{}
}

func newRunner(root string) *runner { return &runner{root: root, bg: map[int]*background{}} }

func (r *runner) command(ctx context.Context, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/usr/bin/env", argv...)
	cmd.Err = nil // looked up inside the chroot, not here
	cmd.Env = environment
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.root, Setsid: true}
	return cmd
}

func (r *runner) do(req peers.Request) peers.Reply {
	switch req.Op {
	case "exec":
		return r.exec(req)
	case "start":
		return r.start(req)
	case "signal":
		// A negative PID is the whole session, as for kill(2). That is for what
		// a daemon left behind only: a fork that a fatal signal interrupts
		// panics user-mode Linux 6.12 (its flush_tlb_mm walks a half-made map).
		if err := syscall.Kill(req.PID, syscall.Signal(req.Signal)); err != nil && err != syscall.ESRCH {
			return peers.Reply{Err: err.Error()}
		}
		return peers.Reply{}
	case "log":
		return r.log(req)
	case "write":
		return r.write(req)
	case "traffic":
		return r.traffic.do(req.Data)
	case "read":
		b, err := os.ReadFile(filepath.Join(r.root, req.Path))
		if err != nil {
			return peers.Reply{Err: err.Error()}
		}
		return peers.Reply{Out: b}
	}
	return peers.Reply{Err: "unknown op " + req.Op}
}

func (r *runner) exec(req peers.Request) peers.Reply {
	limit := time.Duration(req.Timeout) * time.Second
	if limit == 0 {
		limit = 60 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := r.command(ctx, req.Argv)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	cmd.Stdin = bytes.NewReader(req.Stdin)
	out, err := cmd.CombinedOutput()
	reply := peers.Reply{Out: out}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		reply.Err = fmt.Sprintf("%v: still running after %v", req.Argv, limit)
	case errors.As(err, &exit):
		reply.Exit = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		reply.Err = err.Error()
	}
	return reply
}

func (r *runner) start(req peers.Request) peers.Reply {
	b := &background{cmd: r.command(context.Background(), req.Argv), done: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		return peers.Reply{Err: err.Error()}
	}
	pid := b.cmd.Process.Pid
	r.mu.Lock()
	r.bg[pid] = b
	r.mu.Unlock()
	go func() {
		b.cmd.Wait()
		close(b.done)
	}()
	return peers.Reply{PID: pid}
}

func (r *runner) log(req peers.Request) peers.Reply {
	r.mu.Lock()
	b := r.bg[req.PID]
	r.mu.Unlock()
	if b == nil {
		return peers.Reply{Err: fmt.Sprintf("no process %d", req.PID)}
	}
	reply := peers.Reply{}
	select {
	case <-b.done:
		reply.Exited, reply.Exit = true, b.cmd.ProcessState.ExitCode()
	default:
	}
	reply.Out = []byte(b.out.String())
	return reply
}

func (r *runner) write(req peers.Request) peers.Reply {
	p := filepath.Join(r.root, req.Path)
	mode := os.FileMode(req.Mode)
	if mode == 0 {
		mode = 0o644
	}
	os.MkdirAll(filepath.Dir(p), 0o755)
	if err := os.WriteFile(p, req.Data, mode); err != nil {
		return peers.Reply{Err: err.Error()}
	}
	os.Chmod(p, mode) // WriteFile's mode is under the umask and for new files only
	return peers.Reply{}
}
