package edge

import (
	"context"
	"crypto/rand"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/shell"
	"github.com/culvert-fw/culvert/firmware/sshd"
)

// session runs the shell for one SSH session.
func (e *Edge) session(ctx context.Context, s *sshd.Session) {
	o := e.shellOptions(api.Author{
		Via: "ssh", Addr: s.Remote.Addr(), Key: s.Key,
		Conn: &api.Conn{Local: s.Local, Remote: s.Remote},
	})
	o.Stdin, o.Stdout, o.Stderr = s, s, s.Stderr()
	if w, h, ok := s.PTY(); ok {
		in := shell.NewInput(s)
		defer in.Close()
		o.Terminal = shell.NewTerminal(in, s)
		o.Terminal.SetSize(w, h)
		s.OnResize(o.Terminal.SetSize)
		defer s.OnResize(nil)
	}
	switch {
	case s.Unclaimed:
		if err := shell.Claim(ctx, o); err != nil {
			s.Exit(1)
			return
		}
		io.WriteString(o.Stderr, "Log in again: ssh admin@"+s.Local.Addr().String()+"\r\n") //nolint:errcheck // the client may be gone
	case s.Command != "":
		s.Exit(shell.New(o).Exec(ctx, s.Command))
	default:
		s.Exit(shell.New(o).Run(ctx))
	}
}

func (e *Edge) shellOptions(who api.Author) shell.Options {
	return shell.Options{
		API: e.api, Author: who, Now: time.Now,
		Hash: func(p string) (string, error) {
			if err := sshd.CheckPassword(p, e.hostname()); err != nil {
				return "", err
			}
			return sshd.HashPassword(p, rand.Reader)
		},
		Resolve: e.resolve, Hostname: e.hostname, Toolbox: toolbox,
	}
}

func (e *Edge) hostname() string {
	if c := e.cfg.Load(); c != nil && c.Hostname != "" {
		return c.Hostname
	}
	return "culvert"
}

// resolve finds the IPv4 address of a name: a LAN device's, or what the
// forwarder's cache or an upstream says.
func (e *Edge) resolve(ctx context.Context, name string) (netip.Addr, error) {
	c := e.cfg.Load()
	if c == nil {
		return netip.Addr{}, api.ErrAway
	}
	label := strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), ".lan")
	if label == strings.ToLower(c.Hostname) {
		return c.LANAddress.Addr(), nil
	}
	for _, n := range c.Names {
		if n.Addr.Is4() && strings.EqualFold(strings.TrimSuffix(n.Name, ".lan"), label) {
			return n.Addr, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	as, _, err := e.dns.Lookup(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	return as[0], nil
}
