package demo

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/culvert-fw/culvert/qemu/lab"
)

const command = "show passthrough --watch"

// watch runs the command on the router over SSH, on the person's terminal.
func watch(ctx context.Context, l *lab.Lab, in, out *os.File) error {
	c, err := l.Router.SSH(l.LANAddress)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	s.Stdout, s.Stderr = out, out
	if term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd())) {
		leave, err := onTerminal(s, in, out)
		if err != nil {
			return err
		}
		defer leave()
	}
	ended := make(chan error, 1)
	if err := s.Start(command); err != nil {
		return err
	}
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// onTerminal joins the session to the terminal: its size, and every key, so
// that Ctrl-C ends the command as any other does. leave gives the terminal back.
func onTerminal(s *ssh.Session, in, out *os.File) (leave func(), err error) {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return nil, err
	}
	if err := s.RequestPty("xterm", height, width, nil); err != nil {
		return nil, err
	}
	keys, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, err
	}
	go io.Copy(keys, in) //nolint:errcheck // ends with the session or the program
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			if w, h, err := term.GetSize(int(out.Fd())); err == nil {
				s.WindowChange(h, w) //nolint:errcheck // shows at the session's end
			}
		}
	}()
	io.WriteString(out, "\x1b[2J") //nolint:errcheck // the session shows it
	return func() {
		signal.Stop(resized)
		close(resized)
		term.Restore(int(in.Fd()), was) //nolint:errcheck // nothing else to do
		io.WriteString(out, "\r\n")     //nolint:errcheck // the same
	}, nil
}
