// Package sshd is the router's SSH server: one user, admin, and nothing but
// sessions. What a session does is its owner's business.
package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// User is the one user name.
	User = "admin"
	// ClosedText is what an unclaimed router says over SSH after its window.
	ClosedText = "Claiming over SSH closed 30 minutes after power-on. Power-cycle the router, or use the serial console."

	maxUnauthenticated  = 8 // connections that have not logged in
	maxUnauthenticated1 = 6 // of them from one address, so that one can't lock out all
	maxSessions         = 8 // connections that have, and those to an unclaimed router
	maxUnclaimed        = 2 // connections of one address to an unclaimed router
	handshakeTime       = 30 * time.Second
	claimTime           = 10 * time.Minute // an unclaimed session's life
	lingerTime          = 3 * time.Second  // after it
	maxAuthTries        = 6                // keys of an agent count too
	maxPasswords        = 3                // a connection
)

// Config is who may log in; it may change while connections live.
type Config struct {
	HostKey  []byte   // ed25519 private key, OpenSSH PEM
	Claimed  bool     // somebody owns the router
	Password string   // PHC string, "" when none is set
	Keys     []string // authorized_keys lines
	// Window is how long after power-on an unclaimed router may be claimed over SSH.
	Window time.Duration
}

// Options are what a server needs; all must be set.
type Options struct {
	Log     *slog.Logger
	Gate    *Gate
	Session func(ctx context.Context, s *Session)
	// Uptime is the time since power-on.
	Uptime func() time.Duration
}

// Server serves connections of any number of listeners.
type Server struct {
	o Options

	mu     sync.Mutex
	cfg    Config
	signer ssh.Signer
	keys   map[string]string // public key in wire form -> fingerprint and comment
	unauth map[netip.Addr]int
	waits  int // sum of unauth
	live   int // authenticated connections
	// unclaimed are the live ones that nobody had to log in for.
	unclaimed map[netip.Addr]int
}

// New makes a server; it refuses everybody until SetConfig.
func New(o Options) *Server {
	return &Server{o: o, unauth: map[netip.Addr]int{}, unclaimed: map[netip.Addr]int{}}
}

// SetConfig says who may log in from now on. Sessions that live go on.
func (s *Server) SetConfig(c Config) error {
	signer, err := ssh.ParsePrivateKey(c.HostKey)
	if err != nil {
		return fmt.Errorf("sshd: host key: %w", err)
	}
	keys := map[string]string{}
	for _, line := range c.Keys {
		k, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			s.o.Log.Warn("sshd: a key is not readable", "err", err)
			continue
		}
		keys[string(k.Marshal())] = strings.TrimSpace(ssh.FingerprintSHA256(k) + " " + comment)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg, s.signer, s.keys = c, signer, keys
	return nil
}

func (s *Server) config() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// Serve accepts connections until ctx or the listener ends; lan tells that
// they come from the LAN, where an unclaimed router may be claimed.
// Connections outlive the listener: they end with life.
func (s *Server) Serve(ctx, life context.Context, ln net.Listener, lan bool) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				continue
			}
			return fmt.Errorf("sshd: accept: %w", err)
		}
		from := addrPort(c.RemoteAddr())
		if !s.enter(from) {
			c.Close()
			continue
		}
		go s.serve(life, c, from, lan)
	}
}

// addrPort is a TCP address, an IPv4 one in its short form.
func addrPort(a net.Addr) netip.AddrPort {
	if a, ok := a.(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// enter takes one of the places for connections that have not logged in.
func (s *Server) enter(from netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := from.Addr()
	if s.signer == nil || s.waits >= maxUnauthenticated || s.unauth[a] >= maxUnauthenticated1 {
		return false
	}
	s.waits++
	s.unauth[a]++
	return true
}

func (s *Server) leave(from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits--
	countDown(s.unauth, from.Addr())
}

// admit takes one of the places for connections that have logged in, or says
// why there is none.
func (s *Server) admit(how string, from netip.AddrPort) (refusal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case how == howNobody && s.unclaimed[from.Addr()] >= maxUnclaimed:
		return fmt.Sprintf("%d connections from %v are claiming this router already; close one, or wait: they end after %d minutes",
			maxUnclaimed, from.Addr(), int(claimTime.Minutes()))
	case s.live >= maxSessions:
		return fmt.Sprintf("%d connections are in use already; close one of them", maxSessions)
	}
	s.live++
	if how == howNobody {
		s.unclaimed[from.Addr()]++
	}
	return ""
}

// release gives back what admit took.
func (s *Server) release(how string, from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live--
	if how == howNobody {
		countDown(s.unclaimed, from.Addr())
	}
}

func countDown(n map[netip.Addr]int, a netip.Addr) {
	if n[a]--; n[a] <= 0 {
		delete(n, a)
	}
}

// how tells how a connection logged in; kept in ssh.Permissions.
const (
	extHow = "how"
	extKey = "key"

	howPassword = "password"
	howKey      = "key"
	howNobody   = "unclaimed"
)

var errDenied = errors.New("denied")

// auth is the server side of one connection's login.
func (s *Server) auth(ctx context.Context, from netip.AddrPort, lan bool) *ssh.ServerConfig {
	passwords := 0
	cfg := &ssh.ServerConfig{
		MaxAuthTries:  maxAuthTries,
		ServerVersion: "SSH-2.0-Culvert",
		NoClientAuth:  true,
		NoClientAuthCallback: func(m ssh.ConnMetadata) (*ssh.Permissions, error) {
			if m.User() != User || s.config().Claimed || !lan {
				return nil, errDenied
			}
			return permissions(howNobody, ""), nil
		},
		PublicKeyCallback: func(m ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
			s.mu.Lock()
			name, ok := s.keys[string(k.Marshal())]
			ok = ok && s.cfg.Claimed
			s.mu.Unlock()
			if m.User() != User || !ok {
				return nil, errDenied
			}
			return permissions(howKey, name), nil
		},
		PasswordCallback: func(m ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			passwords++
			c := s.config()
			if m.User() != User || !c.Claimed || c.Password == "" || passwords > maxPasswords {
				return nil, errDenied
			}
			err := s.o.Gate.Verify(ctx, from.Addr(), c.Password, string(p))
			var slow *SlowError
			if errors.As(err, &slow) {
				return nil, &ssh.BannerError{Err: err, Message: slow.Error() + "\n"}
			}
			if err != nil {
				s.o.Log.Warn("sshd: login refused", "from", from.Addr(), "err", err)
				return nil, err
			}
			return permissions(howPassword, ""), nil
		},
	}
	s.mu.Lock()
	cfg.AddHostKey(s.signer)
	s.mu.Unlock()
	return cfg
}

func permissions(how, key string) *ssh.Permissions {
	return &ssh.Permissions{Extensions: map[string]string{extHow: how, extKey: key}}
}

// serve runs one connection.
func (s *Server) serve(ctx context.Context, c net.Conn, from netip.AddrPort, lan bool) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	left := false
	leave := func() {
		if !left {
			left = true
			s.leave(from)
		}
	}
	defer leave()

	c.SetDeadline(time.Now().Add(handshakeTime))
	authCtx, done := context.WithTimeout(ctx, handshakeTime)
	conn, chans, reqs, err := ssh.NewServerConn(c, s.auth(authCtx, from, lan))
	done()
	if err != nil {
		s.o.Log.Debug("sshd: no login", "from", from, "err", err)
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(reqs) // no forwarding: "tcpip-forward" and all others are refused
	how := conn.Permissions.Extensions[extHow]
	if refusal := s.admit(how, from); refusal != "" {
		// It keeps its place among those that have not logged in, and the
		// handshake's deadline, while it hears why.
		for nc := range chans {
			nc.Reject(ssh.ResourceShortage, refusal) //nolint:errcheck // the client may be gone
		}
		return
	}
	defer s.release(how, from)
	leave()
	c.SetDeadline(time.Time{})
	if how == howNobody {
		c.SetDeadline(time.Now().Add(claimTime))
	} else {
		s.o.Log.Info("sshd: login", "from", from, "with", how, "key", conn.Permissions.Extensions[extKey])
	}
	s.channels(ctx, conn, chans, addrPort(c.LocalAddr()), from)
}

// channels serves a connection's sessions, at most four at a time (one while
// the router is unclaimed), and refuses every other kind of channel.
func (s *Server) channels(ctx context.Context, conn *ssh.ServerConn, chans <-chan ssh.NewChannel, local, remote netip.AddrPort) {
	most := 4
	unclaimed := conn.Permissions.Extensions[extHow] == howNobody
	if unclaimed {
		most = 1
	}
	slots := make(chan struct{}, most)
	var wg sync.WaitGroup
	defer wg.Wait()
	for nc := range chans {
		if nc.ChannelType() != "session" {
			nc.Reject(ssh.Prohibited, "this router forwards nothing over SSH")
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			nc.Reject(ssh.ResourceShortage, "too many sessions on this connection")
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		sess := &Session{ch: ch, Local: local, Remote: remote, Key: conn.Permissions.Extensions[extKey], Unclaimed: unclaimed}
		if unclaimed && s.o.Uptime() >= s.config().Window {
			sess.refusal = ClosedText
		}
		wg.Go(func() {
			s.session(ctx, sess, reqs)
			if !unclaimed {
				<-slots
				return
			}
			// One session, then no more: the slot stays taken. The client closes
			// the connection; closing it first may cost it the last words.
			time.AfterFunc(lingerTime, func() { conn.Close() })
		})
	}
}

// HostFingerprint is the SHA256 fingerprint of the host key, "" without one.
func (s *Server) HostFingerprint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signer == nil {
		return ""
	}
	return ssh.FingerprintSHA256(s.signer.PublicKey())
}

// NewHostKey makes an ed25519 host key of random, in OpenSSH PEM form.
func NewHostKey(random io.Reader) ([]byte, error) {
	seed := make([]byte, 32)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	return marshalKey(bytes.Clone(seed))
}
