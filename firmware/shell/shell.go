// Package shell is the router's command line: one tree of commands as data,
// the same on the serial line, over SSH and for one command at a time.
package shell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
)

// Caller is the network manager; *api.Client is one.
type Caller interface {
	Call(ctx context.Context, method string, params, result any) error
	Stream(ctx context.Context, method string, params any, each func(json.RawMessage) error) error
}

// Options are what a shell needs. API, Author, Now and Hash must be set.
type Options struct {
	API    Caller
	Author api.Author
	// Terminal is the person's terminal; nil for plain streams.
	Terminal *Terminal
	// Stdin, Stdout and Stderr are used without a Terminal.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Now func() time.Time
	// Hash makes a PHC string of a new password, or says why it is not good enough.
	Hash func(password string) (string, error)
	// Resolve finds the IPv4 address of a name.
	Resolve func(ctx context.Context, name string) (netip.Addr, error)
	// Hostname is for the prompt.
	Hostname func() string
	// Toolbox runs a system shell; nil when there is none.
	Toolbox func(ctx context.Context, t Toolbox) error
}

// Toolbox is one run of the system shell.
type Toolbox struct {
	Command string // "" for an interactive one
	// OnResize calls f with the size of the person's terminal, in characters,
	// now and at every change, until it is called with nil. It is nil itself
	// when there is no terminal; otherwise the program gets one (a pty).
	OnResize func(f func(width, height int))
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
}

// Shell is one person's session.
type Shell struct {
	o    Options
	c    console
	root *Command
	cand *candidate
	// confirmBy is when an unconfirmed commit goes back; zero when none waits.
	confirmBy time.Time
	// oneShot is a session without a terminal, which asks nothing.
	oneShot bool
	single  bool // one line of commands, its input is theirs
	leaving bool
}

// New makes a session.
func New(o Options) *Shell {
	s := &Shell{o: o, root: Root()}
	if s.o.Hostname == nil {
		s.o.Hostname = func() string { return "culvert" }
	}
	if o.Terminal != nil {
		s.c = o.Terminal
		o.Terminal.onKey(s.key)
	} else {
		s.c = newStreams(o.Stdin, o.Stdout)
		s.oneShot = true
	}
	return s
}

// Run reads and runs commands until the person leaves or ctx ends. Without a
// terminal it stops at the first command that fails. It returns the exit status.
func (s *Shell) Run(ctx context.Context) int {
	if s.o.Terminal != nil {
		s.greet(ctx)
	}
	for ctx.Err() == nil && !s.leaving {
		line, err := s.c.line(s.prompt())
		switch {
		case errors.Is(err, errInterrupted):
			continue
		case err != nil && s.oneShot:
			return s.finish()
		case errors.Is(err, io.EOF):
			fmt.Fprintln(s.c)
			s.leave()
		case err != nil:
			return 1
		}
		if err := s.line(ctx, line); err != nil {
			s.fail(err)
			if s.oneShot {
				return 1
			}
		}
	}
	return 0
}

// Exec runs one line of commands, as `ssh router COMMAND` does, and returns
// the exit status: 0, or 1 after a command that failed.
func (s *Shell) Exec(ctx context.Context, line string) int {
	s.single = true
	if err := s.line(ctx, line); err != nil {
		s.fail(err)
		return 1
	}
	return s.finish()
}

// finish ends a script: changes that nobody committed are an error.
func (s *Shell) finish() int {
	if s.cand != nil && s.cand.changed() {
		s.fail(say("Nothing was committed. End the line with: ; commit"))
		return 1
	}
	return 0
}

func (s *Shell) fail(err error) {
	text := err.Error()
	var ae *api.Error
	switch {
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		text = "Interrupted."
	case errors.As(err, &ae) && len(ae.Problems) > 0:
		lines := make([]string, len(ae.Problems))
		for i, p := range ae.Problems {
			lines[i] = p.Error()
		}
		text = strings.Join(lines, "\n")
	}
	if s.o.Terminal == nil && s.o.Stderr != nil {
		fmt.Fprintln(s.o.Stderr, text)
		return
	}
	fmt.Fprintln(s.c, text)
}

// line runs the commands of one line; the first that fails ends it.
func (s *Shell) line(ctx context.Context, line string) error {
	cmds, err := split(line)
	if err != nil {
		return err
	}
	for _, words := range cmds {
		a, err := find(s.root, words)
		if err != nil {
			return err
		}
		if err := s.run(ctx, a); err != nil {
			return err
		}
		if s.leaving {
			break
		}
	}
	return nil
}

func (s *Shell) run(ctx context.Context, a args) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if t := s.o.Terminal; t != nil {
		t.in.running(cancel)
		defer t.in.running(nil)
	}
	return a.cmd.run(ctx, s, a)
}

// ask puts a question; Ctrl-C is an answer to the command, not to the session.
func (s *Shell) ask(prompt string, secret bool) (string, error) {
	return s.askHelped(prompt, secret, nil)
}

// askHelped is ask with help at Tab and ?, as the line editor calls it.
func (s *Shell) askHelped(prompt string, secret bool, help func(line string, pos int, key rune) (string, int, bool)) (string, error) {
	if t := s.o.Terminal; t != nil {
		t.in.running(nil)
		t.history.off = true
		t.onKey(help)
		defer func() {
			t.history.off = false
			t.onKey(s.key)
		}()
	}
	if secret {
		return s.c.secret(prompt)
	}
	return s.c.line(prompt)
}

// sure asks for a yes before something drastic. A script says "now" instead.
func (s *Shell) sure(a args, question string) error {
	if len(a.words) == 1 && a.words[0] == "now" {
		return nil
	}
	if len(a.words) > 0 {
		return a.usageError()
	}
	if s.oneShot {
		return say("Nobody is there to ask. If you are sure, say: %s now", a.path)
	}
	answer, err := s.ask(question+" [y/N] ", false)
	if err != nil {
		return err
	}
	if !yes(answer) {
		return say("Nothing was done.")
	}
	return nil
}

func yes(s string) bool {
	s = strings.ToLower(strings.TrimSpace(s))
	return s == "y" || s == "yes"
}

// leave ends the session, after asking about changes that would be lost.
func (s *Shell) leave() {
	if s.cand != nil && s.cand.changed() && !s.oneShot {
		answer, err := s.ask("You have changes that are not committed. Leave and lose them? [y/N] ", false)
		if (err != nil || !yes(answer)) && !s.gone() {
			if errors.Is(err, io.EOF) { // Ctrl-D
				fmt.Fprintln(s.c)
			}
			return
		}
	}
	s.leaving = true
}

// gone tells whether the person's terminal has hung up.
func (s *Shell) gone() bool { return s.o.Terminal != nil && s.o.Terminal.in.ended() }

// prompt shows the host name, a * with uncommitted changes, and how long a
// commit still waits for confirm.
func (s *Shell) prompt() string {
	p := s.o.Hostname()
	if s.cand != nil && s.cand.changed() {
		p += "*"
	}
	if !s.confirmBy.IsZero() {
		left := s.confirmBy.Sub(s.o.Now())
		if left <= 0 {
			s.confirmBy = time.Time{}
			s.cand = s.cand.ifChanged()
			if s.o.Terminal != nil {
				fmt.Fprintln(s.c, "The commit was not confirmed in time: the router went back to its last confirmed settings.")
			}
		} else {
			p += " (confirm in " + age(left) + ")"
		}
	}
	return p + "> "
}

// greet shows who owns the router, what is wrong with it and what waits.
func (s *Shell) greet(ctx context.Context) {
	var n api.LoginNotes
	if err := s.o.API.Call(ctx, api.MethodLoginNote, s.o.Author, &n); err != nil {
		fmt.Fprintln(s.c, err)
		return
	}
	if n.Claim != nil {
		fmt.Fprintf(s.c, "Claimed %s\n", claimText(n.Claim))
	}
	for _, p := range n.Problems {
		fmt.Fprintf(s.c, "! %s\n", p)
	}
	if n.Pending != nil && n.Pending.ConfirmIn > 0 {
		s.confirmBy = s.o.Now().Add(n.Pending.ConfirmIn)
		fmt.Fprintf(s.c, "! Revision %d goes back in %s unless you type: confirm\n", n.Pending.Revision, age(n.Pending.ConfirmIn))
	}
	fmt.Fprintln(s.c, "Type ? for help.")
}

func claimText(c *api.Claim) string {
	t := c.Time.UTC().Format("2006-01-02 15:04 UTC")
	if c.Time.Year() < 2020 {
		t = "before the clock was set"
	} else {
		t = "on " + t
	}
	t += " by " + who(c.Author)
	if c.With != "" {
		t += " with " + c.With
	}
	return t
}

// who says where somebody came from: "ssh 192.168.1.100 (02:00:...) key SHA256:...".
func who(a api.Author) string {
	s := a.Via
	if s == "" {
		s = "the router"
	}
	if a.Addr.IsValid() {
		s += " " + a.Addr.String()
	}
	if a.MAC != "" {
		s += " (" + a.MAC + ")"
	}
	if a.Key != "" {
		s += " key " + a.Key
	}
	return s
}
