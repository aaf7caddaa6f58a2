package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/shell"
)

// toolboxShell is the first system shell that is there.
func toolboxShell() (string, error) {
	for _, p := range []string{"/bbin/gosh", "/bin/gosh", "/bin/sh"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", shell.Sentence("This image has no system shell.")
}

// toolbox runs a system shell with edge's uid and without its capabilities.
func toolbox(ctx context.Context, t shell.Toolbox) error {
	sh, err := toolboxShell()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, sh)
	if t.Command != "" {
		cmd.Args = append(cmd.Args, "-c", t.Command)
	}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/bbin:/bin:/usr/bin:/sbin:/usr/sbin", "HOME=/tmp", "TERM=vt100", "GOMEMLIMIT=16MiB"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if t.OnResize != nil {
		err = onTerminal(cmd, t)
	} else {
		err = onStreams(cmd, t)
	}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		if t.Command == "" {
			return nil // the status of an interactive shell's last command
		}
		return fmt.Errorf("%s: %s", t.Command, ee.ProcessState)
	}
	return err
}

// onStreams runs cmd on plain streams. It does not wait for the person's input
// to end.
func onStreams(cmd *exec.Cmd, t shell.Toolbox) error {
	cmd.Stdout, cmd.Stderr = t.Stdout, t.Stderr
	if t.Stdin != nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(in, t.Stdin) //nolint:errcheck // ends with either side
			in.Close()
		}()
	}
	return cmd.Run()
}

// onTerminal runs cmd on a terminal of its own, joined to the person's.
func onTerminal(cmd *exec.Cmd, t shell.Toolbox) error {
	master, slave, err := openPTY()
	if err != nil {
		return fmt.Errorf("no terminal for the toolbox: %w", err)
	}
	defer master.Close()
	t.OnResize(func(width, height int) { resize(master, width, height) })
	defer t.OnResize(nil)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty = true
	err = cmd.Start()
	slave.Close()
	if err != nil {
		return err
	}
	copied := make(chan struct{})
	go func() {
		io.Copy(master, t.Stdin) //nolint:errcheck // ends with either side
		close(copied)
	}()
	io.Copy(t.Stdout, master) //nolint:errcheck // EIO when the last process closed the terminal
	err = cmd.Wait()
	if c, ok := t.Stdin.(io.Closer); ok {
		c.Close()
		<-copied
	}
	return err
}

// openPTY opens a pseudo terminal.
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var n int
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// resize sets a terminal's size; the kernel tells the programs on it (SIGWINCH).
func resize(pty *os.File, width, height int) {
	control(pty, func(fd int) error { //nolint:errcheck // the terminal is gone
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	})
}

func control(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	err = rc.Control(func(fd uintptr) { derr = do(int(fd)) })
	return errors.Join(err, derr)
}
