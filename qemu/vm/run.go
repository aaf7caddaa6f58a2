package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/culvert-fw/culvert/firmware/image"
)

// Streams are QEMU's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// stopWait is how long QEMU may take to end after a request.
const stopWait = 5 * time.Second

// Run boots the machine and returns when it has ended: switched off by the router or by a person
// (nil), or stopped because ctx is done (nil as well). QEMU never outlives the caller.
func Run(ctx context.Context, o Options, s Streams) error {
	args, err := o.Args()
	if err != nil {
		return err
	}
	// The parent-death signal is sent when the thread that started QEMU ends, so keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := exec.CommandContext(ctx, o.Board.QEMU.Binary, args...)
	c.Stdin, c.Stdout, c.Stderr = s.In, s.Out, s.Err
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = stopWait
	err = start(ctx, c, o.unplugged())
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s is not installed: %w", o.Board.QEMU.Binary, err)
	case err != nil:
		return fmt.Errorf("%s: %w", o.Board.QEMU.Binary, err)
	}
	return nil
}

// start runs QEMU to its end, with the cables of the named cards pulled before the router's first
// instruction.
func start(ctx context.Context, c *exec.Cmd, unplugged []string) error {
	if len(unplugged) == 0 {
		return c.Run()
	}
	conn, theirs, err := controlPair()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer theirs.Close()
	c.ExtraFiles = []*os.File{theirs}
	if err := c.Start(); err != nil {
		return err
	}
	theirs.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	cables := unplug(conn, unplugged)
	if cables != nil {
		// It still waits for its start. An end of its own shows in Wait, with the better reason.
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	if err := c.Wait(); err != nil {
		return err
	}
	return cables
}

// PrepareData makes the disk for /data when the file is not there. An existing one is used as it
// is, whatever is in it.
func PrepareData(name string, log io.Writer) error {
	if _, err := os.Stat(name); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return image.MakeData(name, image.DataSize, log)
}

// PrepareSettings copies a settings file to dir as a raw disk: padded with zeros to whole sectors.
func PrepareSettings(name, dir string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("initial settings: %w", err)
	}
	if len(data) == 0 {
		return "", fmt.Errorf("initial settings: %s is empty", name)
	}
	const sector = 512
	padded := make([]byte, (len(data)+sector-1)/sector*sector)
	copy(padded, data)
	disk := filepath.Join(dir, "settings.img")
	return disk, os.WriteFile(disk, padded, 0o600)
}
