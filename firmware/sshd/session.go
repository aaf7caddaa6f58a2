package sshd

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"io"
	"net/netip"
	"sync"

	"golang.org/x/crypto/ssh"
)

// unclaimedText answers a command for a router that nobody owns.
const unclaimedText = "This router has no owner yet, so it runs no commands. Log in without one to set a password or a key."

// Session is one session channel whose request (shell or command) was accepted.
type Session struct {
	// Command is what `ssh admin@router COMMAND` asks for, "" for a shell.
	Command       string
	Local, Remote netip.AddrPort
	Key           string // fingerprint and comment of the key, "" after a password
	Unclaimed     bool   // nobody logged in: claiming is all this session may do

	refusal string // said in place of a session

	ch  ssh.Channel
	mu  sync.Mutex
	pty bool
	w   int
	h   int
	on  func(w, h int) // told about a new size
	sts uint32
}

// Read reads what the person types.
func (s *Session) Read(p []byte) (int, error) { return s.ch.Read(p) }

// Write shows something.
func (s *Session) Write(p []byte) (int, error) { return s.ch.Write(p) }

// Stderr is the other way to show something.
func (s *Session) Stderr() io.Writer { return s.ch.Stderr() }

// PTY tells whether the person has a terminal, and its size in characters.
func (s *Session) PTY() (width, height int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w, s.h, s.pty
}

// OnResize says whom to tell about a new size of the terminal.
func (s *Session) OnResize(f func(width, height int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = f
}

// Exit sets the exit status that the client gets.
func (s *Session) Exit(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sts = uint32(status)
}

// session answers a channel's requests and runs its session, once.
func (s *Server) session(ctx context.Context, sess *Session, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan struct{})
	go func() {
		defer cancel() // the channel is gone
		running := false
		for r := range reqs {
			start, ok := sess.request(r, running)
			if r.WantReply {
				r.Reply(ok, nil) //nolint:errcheck // the channel may be gone
			}
			if start {
				running = true
				close(started)
			}
		}
	}()
	select {
	case <-started:
		s.start(ctx, sess)
		sess.mu.Lock()
		sts := sess.sts
		sess.mu.Unlock()
		sess.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{sts})) //nolint:errcheck // the client may be gone
	case <-ctx.Done():
	}
	sess.ch.Close()
}

// start runs the session, or says why there is none.
func (s *Server) start(ctx context.Context, sess *Session) {
	c := s.config()
	switch {
	case sess.Unclaimed && c.Claimed:
		io.WriteString(sess.Stderr(), "The router has an owner now. Log in again.\r\n") //nolint:errcheck // the client may be gone
		sess.Exit(1)
	case sess.refusal != "":
		io.WriteString(sess.Stderr(), sess.refusal+"\r\n") //nolint:errcheck // the client may be gone
		sess.Exit(1)
	default:
		s.o.Session(ctx, sess)
	}
}

// request handles one channel request: start says that the session begins.
func (s *Session) request(r *ssh.Request, running bool) (start, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Type {
	case "pty-req":
		var p struct {
			Term           string
			W, H, PxW, PxH uint32
			Modes          string
		}
		if running || ssh.Unmarshal(r.Payload, &p) != nil {
			return false, false
		}
		s.pty, s.w, s.h = true, clampSize(p.W, 80, 20), clampSize(p.H, 24, 2)
		return false, true
	case "window-change":
		var p struct{ W, H, PxW, PxH uint32 }
		if !s.pty || ssh.Unmarshal(r.Payload, &p) != nil {
			return false, false
		}
		s.w, s.h = clampSize(p.W, 80, 20), clampSize(p.H, 24, 2)
		if s.on != nil {
			s.on(s.w, s.h)
		}
		return false, true
	case "shell":
		return !running, !running
	case "exec":
		var p struct{ Command string }
		if running || ssh.Unmarshal(r.Payload, &p) != nil {
			return false, false
		}
		if s.refusal = cmp.Or(s.refusal, s.noCommands()); s.refusal == "" {
			s.Command = p.Command
		}
		return true, true
	}
	return false, false // env, subsystem, x11-req, auth-agent-req, signal ...
}

// noCommands is what an unclaimed router answers to a command; it runs none.
func (s *Session) noCommands() string {
	if s.Unclaimed {
		return unclaimedText
	}
	return ""
}

// clampSize keeps what a client says of its terminal within reason, least to
// 500 characters; 0 is unknown.
func clampSize(n uint32, unknown int, least uint32) int {
	if n == 0 {
		return unknown
	}
	return int(min(max(n, least), 500))
}

func marshalKey(seed []byte) ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(seed), "")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}
