package peers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Config says what the peers' machine is made of.
type Config struct {
	Kernel string   // the user-mode Linux kernel
	Root   string   // folder with the peers' root file system, never written to
	Agent  string   // the agent, a static binary
	Dir    string   // scratch folder: root file system, console log
	Taps   []string // vec0, vec1, ...; the last one is the management network
	MemMB  int
}

// UML is a running user-mode Linux.
type UML struct {
	cmd     *exec.Cmd
	console string
	done    chan struct{}
}

// Start starts the machine in the network namespace of the calling thread.
func Start(cfg Config) (*UML, error) {
	root := filepath.Join(cfg.Dir, "peers")
	if err := makeRoot(root, cfg.Agent); err != nil {
		return nil, fmt.Errorf("root of the peers' machine: %w", err)
	}
	args := []string{
		"umid=peers" + strconv.Itoa(os.Getpid()), "uml_dir=" + cfg.Dir,
		"mem=" + strconv.Itoa(cfg.MemMB) + "M",
		"root=/dev/root", "rootfstype=hostfs", "rootflags=" + root, "rw", "init=/init",
		"peers.root=" + cfg.Root,
		"con=null", "con0=fd:0,fd:1", "panic=1",
	}
	for i, tap := range cfg.Taps {
		args = append(args, fmt.Sprintf("vec%d:transport=tap,ifname=%s,depth=128,gro=0", i, tap))
	}
	u := &UML{console: filepath.Join(cfg.Dir, "peers.console"), done: make(chan struct{})}
	log, err := os.Create(u.console)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	u.cmd = exec.Command(cfg.Kernel, args...)
	u.cmd.Stdout, u.cmd.Stderr = log, log
	// A session of its own: its helper threads end with the group, and ours never.
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := u.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		u.cmd.Wait()
		close(u.done)
	}()
	return u, nil
}

// Done is closed when the machine has ended.
func (u *UML) Done() <-chan struct{} { return u.done }

// Console is everything the machine's kernel and agent printed.
func (u *UML) Console() string {
	b, _ := os.ReadFile(u.console)
	return string(b)
}

// Stop ends the machine and all its processes.
func (u *UML) Stop() {
	syscall.Kill(-u.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-u.done:
	case <-time.After(3 * time.Second):
	}
	syscall.Kill(-u.cmd.Process.Pid, syscall.SIGKILL)
	<-u.done
}

// makeRoot makes the machine's own root folder: the agent and mount points.
func makeRoot(dir, agent string) error {
	for _, d := range []string{"proc", "dev", "tmp", "lower", "peers", "hosts"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	bin, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "init"), bin, 0o755)
}
