// Package initctl is the protocol of init's control socket and a client for
// it: JSON lines, one answer a request, for root only.
package initctl

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/supervise"
)

// Socket is where init listens.
const Socket = "/run/culvert/init.sock"

// Operations of a Request.
const (
	OpStatus       = "status"
	OpServices     = "services"
	OpLog          = "log"
	OpKill         = "kill" // Name: ends a service with SIGKILL; it is started again
	OpReboot       = "reboot"
	OpPoweroff     = "poweroff"
	OpFactoryReset = "factory-reset"
	OpPanic        = "panic" // only on a kernel started with culvert.test
)

// Logs that are not a service's own.
const (
	LogInit   = "init"
	LogKernel = "kernel"
)

// Request is one line to init.
type Request struct {
	ID    int64  `json:"id"`
	Op    string `json:"op"`
	Name  string `json:"name,omitempty"`  // OpLog: of which service, or LogInit, LogKernel
	Lines int    `json:"lines,omitempty"` // OpLog: how many at most, 0 is all there are
}

// Reply answers the request with the same ID; exactly what was asked for is set.
type Reply struct {
	ID       int64              `json:"id"`
	Error    string             `json:"error,omitempty"`
	Status   *Status            `json:"status,omitempty"`
	Services []supervise.Status `json:"services,omitempty"`
	Lines    []supervise.Line   `json:"lines,omitempty"`
}

// Status is how the boot went.
type Status struct {
	Uptime   time.Duration `json:"uptime_ns"` // since the kernel's start
	BootTime time.Duration `json:"boot_ns"`   // from the kernel's start to the start of the services
	Board    string        `json:"board,omitempty"`
	Data     Data          `json:"data"`
	Watchdog string        `json:"watchdog,omitempty"` // the device's name, "" if there is none
	// Problems are the phases of the boot that failed, one complete sentence each.
	Problems []string `json:"problems,omitempty"`
}

// Data is what lies under /data.
type Data struct {
	Device   string `json:"device,omitempty"` // "" when there is no disk
	Size     int64  `json:"size,omitempty"`   // of the file system, bytes
	Volatile bool   `json:"volatile"`         // in RAM: settings will not survive a reboot
	Remade   string `json:"remade,omitempty"` // why the file system was made anew at this boot, "" if it was not
}

// Client speaks to init. Its methods may be called concurrently.
type Client struct {
	mu   sync.Mutex
	conn net.Conn
	br   *bufio.Reader
	id   int64
}

// Dial connects to init's control socket.
func Dial() (*Client, error) { return DialPath(Socket) }

// DialPath connects to a control socket at another path.
func DialPath(path string) (*Client, error) {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("init does not answer: %w", err)
	}
	return &Client{conn: c, br: bufio.NewReader(c)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call sends one request and waits at most 10 s for its answer.
func (c *Client) Call(req Request) (*Reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id++
	req.ID = c.id
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("init: %s: %w", req.Op, err)
	}
	line, err := c.br.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("init: %s: %w", req.Op, err)
	}
	var rep Reply
	if err := json.Unmarshal(line, &rep); err != nil {
		return nil, fmt.Errorf("init: %s: bad answer: %w", req.Op, err)
	}
	if rep.ID != req.ID {
		return nil, fmt.Errorf("init: %s: answer to request %d, not %d", req.Op, rep.ID, req.ID)
	}
	if rep.Error != "" {
		return nil, errors.New(rep.Error)
	}
	return &rep, nil
}

// Status tells how the boot went.
func (c *Client) Status() (*Status, error) {
	r, err := c.Call(Request{Op: OpStatus})
	if err != nil {
		return nil, err
	}
	if r.Status == nil {
		return nil, errors.New("init: status: empty answer")
	}
	return r.Status, nil
}

// Services returns the supervised services in the order they are started.
func (c *Client) Services() ([]supervise.Status, error) {
	r, err := c.Call(Request{Op: OpServices})
	if err != nil {
		return nil, err
	}
	return r.Services, nil
}

// Log returns the last n lines (0: all there are) of a service's log, or of
// LogInit or LogKernel, oldest first.
func (c *Client) Log(name string, n int) ([]supervise.Line, error) {
	r, err := c.Call(Request{Op: OpLog, Name: name, Lines: n})
	if err != nil {
		return nil, err
	}
	return r.Lines, nil
}

// Reboot begins an orderly reboot and returns at once; the caller will get a
// SIGTERM soon.
func (c *Client) Reboot() error { return c.do(OpReboot) }

// Poweroff begins an orderly power-off and returns at once.
func (c *Client) Poweroff() error { return c.do(OpPoweroff) }

// FactoryReset begins a reboot that erases /data on the way.
func (c *Client) FactoryReset() error { return c.do(OpFactoryReset) }

// Kill ends a service as a crash would; the supervisor starts it again.
func (c *Client) Kill(name string) error {
	_, err := c.Call(Request{Op: OpKill, Name: name})
	return err
}

func (c *Client) do(op string) error {
	_, err := c.Call(Request{Op: op})
	return err
}
