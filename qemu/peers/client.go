package peers

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Client talks to the agent.
type Client struct {
	conn net.Conn
	mu   sync.Mutex
	next uint64
	wait map[uint64]chan Reply
	enc  *json.Encoder
	err  error
}

// NewClient takes over an open connection to the agent.
func NewClient(conn net.Conn) *Client {
	c := &Client{conn: conn, wait: map[uint64]chan Reply{}, enc: json.NewEncoder(conn)}
	go c.read()
	return c
}

// Close ends the connection; requests under way fail.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) read() {
	dec := json.NewDecoder(bufio.NewReader(c.conn))
	for {
		var r Reply
		err := dec.Decode(&r)
		c.mu.Lock()
		if err != nil {
			c.err = fmt.Errorf("the peers' agent is gone: %w", err)
			for _, ch := range c.wait {
				close(ch)
			}
			c.wait = nil
			c.mu.Unlock()
			return
		}
		ch := c.wait[r.ID]
		delete(c.wait, r.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
}

func (c *Client) do(r Request) (Reply, error) {
	ch := make(chan Reply, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return Reply{}, c.err
	}
	c.next++
	r.ID = c.next
	c.wait[r.ID] = ch
	err := c.enc.Encode(r)
	c.mu.Unlock()
	if err != nil {
		return Reply{}, err
	}
	reply, ok := <-ch
	if !ok {
		return Reply{}, c.err
	}
	if reply.Err != "" {
		return reply, errors.New(reply.Err)
	}
	return reply, nil
}

// Machine is the user-mode Linux itself, outside of all hosts.
func (c *Client) Machine() *Host { return &Host{c: c} }

// NewHost makes a host: network, mount and UTS namespaces of its own.
func (c *Client) NewHost(name string) (*Host, error) {
	r, err := c.do(Request{Op: "host", Host: name})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return &Host{Name: name, PID: r.PID, c: c}, nil
}

// Host is one host of the lab.
type Host struct {
	Name string
	PID  int // of the agent in its namespaces, for `ip link set netns`
	c    *Client
}

// Run runs a program to its end and returns what it printed; an exit status
// other than 0 is an error that holds the output.
func (h *Host) Run(timeout time.Duration, argv ...string) (string, error) {
	r, err := h.c.do(Request{Op: "exec", Host: h.Name, Argv: argv, Timeout: max(1, int(timeout.Seconds()))})
	out := string(r.Out)
	if err != nil {
		return out, fmt.Errorf("%s: %w\n%s", h.Name, err, out)
	}
	if r.Exit != 0 {
		return out, fmt.Errorf("%s: %s: exit status %d\n%s", h.Name, strings.Join(argv, " "), r.Exit, out)
	}
	return out, nil
}

// Shell runs a script with sh -e.
func (h *Host) Shell(timeout time.Duration, script string) (string, error) {
	return h.Run(timeout, "sh", "-ec", script)
}

// Write makes a file.
func (h *Host) Write(path, data string, mode uint32) error {
	_, err := h.c.do(Request{Op: "write", Host: h.Name, Path: path, Data: []byte(data), Mode: mode})
	return err
}

// Read returns a file.
func (h *Host) Read(path string) (string, error) {
	r, err := h.c.do(Request{Op: "read", Host: h.Name, Path: path})
	return string(r.Out), err
}

// Process is a program that runs in the background of a host.
type Process struct {
	h    *Host
	pid  int
	argv []string
}

func (p *Process) String() string { return strings.Join(p.argv, " ") }

// Start starts a program and leaves it running.
func (h *Host) Start(argv ...string) (*Process, error) {
	r, err := h.c.do(Request{Op: "start", Host: h.Name, Argv: argv})
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", h.Name, strings.Join(argv, " "), err)
	}
	return &Process{h: h, pid: r.PID, argv: argv}, nil
}

// Log is all it printed so far, and whether it ended.
func (p *Process) Log() (out string, exited bool, err error) {
	r, err := p.h.c.do(Request{Op: "log", Host: p.h.Name, PID: p.pid})
	return string(r.Out), r.Exited, err
}

// Signal sends a signal to the process, not to its children.
func (p *Process) Signal(sig int) error { return p.signal(p.pid, sig) }

func (p *Process) signal(pid, sig int) error {
	_, err := p.h.c.do(Request{Op: "signal", Host: p.h.Name, PID: pid, Signal: sig})
	return err
}

// Stop ends it: SIGTERM, and SIGKILL when it does not end within 5 s; then
// SIGKILL for what it left behind.
func (p *Process) Stop() error {
	if err := p.Signal(15); err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		_, exited, err := p.Log()
		if err != nil {
			return err
		}
		if exited {
			break
		}
	}
	return p.signal(-p.pid, 9)
}
