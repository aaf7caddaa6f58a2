package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/settings"
)

const (
	// MaxLine bounds one request or answer in bytes: settings with 10,000
	// port forwards are about 1.5 MB.
	MaxLine = 4 << 20
	// maxConns bounds the connections served at once; only root and edge
	// can open one, so the bound is against leaks, not against attackers.
	maxConns = 64
	// writeTimeout frees netd of a client that stopped reading.
	writeTimeout = 30 * time.Second
)

// Peer is the process at the other end of a connection, as the kernel knows it.
type Peer struct {
	PID      int32
	UID, GID uint32
}

// Handler answers one request. An error that is (or wraps) an *Error goes to
// the client as it is, settings.Problems become code "invalid", anything else
// code "failed". ctx ends when the client hangs up.
type Handler func(ctx context.Context, peer Peer, params Params) (any, error)

// Params are what a request gives.
type Params struct {
	JSON json.RawMessage
	// Body is what is too large to be read again and again as JSON: see Bodied.
	Body []byte
}

// Bodied are params of which one part, the body, is not in their JSON. It goes
// after the request's line, as the request says: {"id":1,...,"body":LENGTH}.
type Bodied interface {
	GetBody() []byte
	SetBody([]byte)
}

// StreamHandler answers one request many times; the stream ends when it returns.
type StreamHandler func(ctx context.Context, peer Peer, params Params, send func(any) error) error

// Options configure Serve.
type Options struct {
	// Allow tells whether a process of this user may connect; nil allows root alone.
	Allow    func(uid uint32) bool
	Handlers map[string]Handler
	Streams  map[string]StreamHandler
	Log      *slog.Logger // nil: slog.Default()
}

// Handle makes a Handler of a function with typed parameters and result.
func Handle[P, R any](f func(ctx context.Context, peer Peer, params P) (R, error)) Handler {
	return func(ctx context.Context, peer Peer, raw Params) (any, error) {
		p, err := decode[P](raw)
		if err != nil {
			return nil, err
		}
		return f(ctx, peer, p)
	}
}

// HandleStream makes a StreamHandler of a function with typed parameters and results.
func HandleStream[P, R any](f func(ctx context.Context, peer Peer, params P, send func(R) error) error) StreamHandler {
	return func(ctx context.Context, peer Peer, raw Params, send func(any) error) error {
		p, err := decode[P](raw)
		if err != nil {
			return err
		}
		return f(ctx, peer, p, func(r R) error { return send(r) })
	}
}

func decode[P any](raw Params) (P, error) {
	var p P
	if len(raw.JSON) > 0 {
		if err := json.Unmarshal(raw.JSON, &p); err != nil {
			return p, &Error{Code: "invalid", Text: "bad parameters: " + err.Error()}
		}
	}
	switch b, ok := any(&p).(Bodied); {
	case ok:
		b.SetBody(raw.Body)
	case raw.Body != nil:
		return p, &Error{Code: "invalid", Text: "bad parameters: this request has no body"}
	}
	return p, nil
}

// Listen opens the unix socket at path for root and the group gid, in place of
// one that a dead process left behind.
func Listen(ctx context.Context, path string, gid int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("api: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	if err := errors.Join(os.Chmod(path, 0o660), os.Chown(path, -1, gid)); err != nil {
		ln.Close()
		return nil, fmt.Errorf("api: %w", err)
	}
	return ln, nil
}

// Serve answers requests on ln, a unix socket, until ctx ends. Requests of one
// connection are answered in order, connections are served side by side.
func Serve(ctx context.Context, ln net.Listener, o Options) error {
	if o.Allow == nil {
		o.Allow = func(uid uint32) bool { return uid == 0 }
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("api: accept: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			refuse(c, &Error{Code: "busy", Text: "The network manager has too many open requests; try again in a few seconds."})
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			serveConn(ctx, c, &o)
		})
	}
}

func refuse(c net.Conn, e *Error) {
	send(c, reply{Error: e}) //nolint:errcheck // the client may be gone already
	c.Close()
}

type request struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
	// Body is the length of what follows the line, 0 for nothing.
	Body int `json:"body,omitempty"`
}

// message is a request as it came.
type message struct {
	request
	body []byte
	err  *Error // what is wrong with it
}

type reply struct {
	ID     uint64          `json:"id"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	// More says that another answer to the same request may follow.
	More bool `json:"more,omitempty"`
}

func serveConn(ctx context.Context, c net.Conn, o *Options) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	peer, err := credentials(c)
	if err != nil || !o.Allow(peer.UID) {
		o.Log.Warn("api: connection refused", "uid", peer.UID, "pid", peer.PID, "err", err)
		refuse(c, &Error{Code: "denied", Text: fmt.Sprintf("User %d may not talk to the network manager.", peer.UID)})
		return
	}
	// The reader runs ahead of the handler by at most one request, so that a
	// client that hangs up ends its handler's ctx.
	messages := make(chan message)
	go func() {
		defer cancel()
		br := bufio.NewReader(c)
		for {
			m, err := readMessage(br)
			if err != nil {
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case m := <-messages:
			if err := serveMessage(ctx, c, peer, m, o); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// readMessage reads one request; its error means that the connection is dead.
func readMessage(br *bufio.Reader) (m message, err error) {
	line, err := readLine(br)
	switch {
	case errors.Is(err, errTooLong):
		m.err = tooLong()
		return m, nil
	case err != nil:
		return m, err
	}
	if err := json.Unmarshal(line, &m.request); err != nil {
		m.err = &Error{Code: "invalid", Text: "Not a request: " + err.Error()}
		return m, nil
	}
	switch {
	case m.Body == 0:
	case m.Body < 0:
		m.err = &Error{Code: "invalid", Text: "Not a request: a body of less than nothing"}
	case m.Body > MaxLine:
		m.err = tooLong()
		_, err = io.CopyN(io.Discard, br, int64(m.Body))
	default:
		m.body = make([]byte, m.Body)
		_, err = io.ReadFull(br, m.body)
	}
	return m, err
}

func tooLong() *Error {
	return &Error{Code: "invalid", Text: fmt.Sprintf("The request is longer than %d bytes.", MaxLine)}
}

var errTooLong = errors.New("line too long")

// readLine reads up to a newline; of a line longer than MaxLine it returns nil
// and errTooLong after having skipped all of it.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	tooLong := false
	for {
		part, err := br.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > MaxLine; tooLong {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case err == nil && tooLong:
			return nil, errTooLong
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// serveMessage answers one request; its error means that the connection is dead.
func serveMessage(ctx context.Context, c net.Conn, peer Peer, req message, o *Options) error {
	if req.err != nil {
		return send(c, reply{Error: req.err})
	}
	params := Params{JSON: req.Params, Body: req.body}
	if h, ok := o.Streams[req.Method]; ok {
		err := guard(o.Log, req.Method, func() error {
			return h(ctx, peer, params, func(v any) error {
				raw, err := json.Marshal(v)
				if err != nil {
					return err
				}
				return send(c, reply{ID: req.ID, Result: raw, More: true})
			})
		})
		return send(c, reply{ID: req.ID, Error: toError(err)})
	}
	h, ok := o.Handlers[req.Method]
	if !ok {
		return send(c, reply{ID: req.ID, Error: &Error{Code: "unknown", Text: fmt.Sprintf("The network manager has no method %q.", req.Method)}})
	}
	r := reply{ID: req.ID}
	err := guard(o.Log, req.Method, func() error {
		v, err := h(ctx, peer, params)
		if err != nil {
			return err
		}
		r.Result, err = json.Marshal(v)
		return err
	})
	r.Error = toError(err)
	return send(c, r)
}

func send(c net.Conn, r reply) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err = c.Write(append(b, '\n'))
	return err
}

// guard turns a panic of a handler into an error: one bad request must not
// take the network down.
func guard(log *slog.Logger, method string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("api: handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			err = &Error{Code: "failed", Text: fmt.Sprintf("%s failed by a bug in the network manager; see: show log", method)}
		}
	}()
	return f()
}

func toError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var ps settings.Problems
	if errors.As(err, &ps) {
		return &Error{Code: "invalid", Text: ps.Error(), Problems: ps}
	}
	return &Error{Code: "failed", Text: err.Error()}
}

func credentials(c net.Conn) (Peer, error) {
	nobody := Peer{UID: ^uint32(0), GID: ^uint32(0)}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nobody, errors.New("not a unix socket")
	}
	rc, err := uc.SyscallConn()
	if err != nil {
		return nobody, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := rc.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nobody, err
	}
	if cerr != nil {
		return nobody, cerr
	}
	return Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}
