package edge

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/shell"
)

// serial runs logins on the serial line, one after the other, and survives
// its hangups.
func (e *Edge) serial(ctx context.Context) {
	for {
		err := e.serialLine(ctx)
		if ctx.Err() != nil {
			return
		}
		e.o.Log.Warn("edge: serial line", "tty", e.o.Console, "err", err)
		select {
		case <-time.After(maxRetry):
		case <-ctx.Done():
			return
		}
	}
}

// serialLine serves the line until it hangs up.
func (e *Edge) serialLine(ctx context.Context) error {
	tty, err := os.OpenFile(e.o.Console, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	restore, err := makeRaw(tty)
	if err != nil {
		return err
	}
	defer restore()
	stop := context.AfterFunc(ctx, func() { tty.Close() })
	defer stop()
	in := shell.NewInput(tty)
	defer in.Close()
	select { // the banner names the board, and comes after the boot's messages
	case <-e.first:
	case <-time.After(maxRetry):
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		t := shell.NewTerminal(in, tty)
		banner := "\nCulvert"
		if c := e.cfg.Load(); c != nil {
			banner += " on " + c.Board
		}
		if err := shell.WaitEnter(t, banner+". Press Enter to begin."); err != nil {
			return err
		}
		e.serialLogin(ctx, t)
	}
	return ctx.Err()
}

// serialLogin is one person's visit.
func (e *Edge) serialLogin(ctx context.Context, t *shell.Terminal) {
	c := e.cfg.Load()
	if c == nil {
		fmt.Fprintln(t, "The router is still starting.")
		select {
		case <-e.first:
			c = e.cfg.Load()
		case <-time.After(3 * time.Second):
			fmt.Fprintln(t, api.ErrAway)
			return
		case <-ctx.Done():
			return
		}
	}
	o := e.shellOptions(api.Author{Via: "serial"})
	o.Terminal = t
	switch {
	case !c.Claimed:
		if err := shell.Claim(ctx, o); err != nil {
			return
		}
	case c.Password != "":
		err := shell.Login(ctx, t, func(ctx context.Context, p string) error {
			return e.gate.Verify(ctx, netip.Addr{}, e.cfg.Load().Password, p)
		})
		if err != nil {
			return
		}
	default:
		fmt.Fprintln(t, "The serial line is open: no password is set, only SSH keys, so whoever holds this cable is the admin. Close it with: password")
	}
	if f := e.ssh.HostFingerprint(); f != "" {
		fmt.Fprintln(t, "SSH host key: "+f)
	}
	shell.New(o).Run(ctx)
}

// makeRaw turns off the line's own editing and echo. Output processing stays,
// for the sake of others who write to the console. restore undoes it.
func makeRaw(tty *os.File) (restore func(), err error) {
	var old *unix.Termios
	err = control(tty, func(fd int) (err error) {
		if old, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			return err
		}
		t := *old
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag &^= unix.CSIZE | unix.PARENB
		t.Cflag |= unix.CS8 | unix.CLOCAL | unix.CREAD
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		return unix.IoctlSetTermios(fd, unix.TCSETS, &t)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: terminal settings: %w", tty.Name(), err)
	}
	return func() {
		control(tty, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, old) }) //nolint:errcheck // the line is gone
	}, nil
}
