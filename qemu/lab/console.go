package lab

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Console is the router's serial line: all it printed, and a way to type.
type Console struct {
	conn io.ReadWriteCloser
	mu   sync.Mutex
	text strings.Builder
	more chan struct{} // closed and replaced when text grows
	end  bool
	seen int // Expect looks behind this
}

// openConsole connects to the unix socket on which QEMU offers the serial line.
func openConsole(path string, timeout time.Duration, gone <-chan struct{}) (*Console, error) {
	deadline := time.Now().Add(timeout)
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			c := &Console{conn: conn, more: make(chan struct{})}
			go c.read()
			return c, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("serial console: %w", err)
		}
		select {
		case <-gone:
			return nil, fmt.Errorf("QEMU ended before its console %s was there", path)
		case <-time.After(20 * time.Millisecond): // there is no event for a socket that appears
		}
	}
}

func (c *Console) read() {
	buf := make([]byte, 4096)
	for {
		n, err := c.conn.Read(buf)
		c.mu.Lock()
		c.text.Write(buf[:n])
		if err != nil {
			c.end = true
		}
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Text is everything printed so far.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// Type sends keys as they are; a line ends with "\r".
func (c *Console) Type(keys string) error {
	_, err := c.conn.Write([]byte(keys))
	return err
}

// Expect waits until what was printed since the last Expect matches, and
// returns the match with its groups.
func (c *Console) Expect(pattern string, timeout time.Duration) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	for {
		c.mu.Lock()
		text, more, end := c.text.String(), c.more, c.end
		tail := text[c.seen:]
		if m := re.FindStringSubmatchIndex(tail); m != nil {
			c.seen += m[1]
			c.mu.Unlock()
			return re.FindStringSubmatch(tail), nil
		}
		c.mu.Unlock()
		if end {
			return nil, fmt.Errorf("console closed before %q came", pattern)
		}
		select {
		case <-more:
		case <-limit.C:
			return nil, fmt.Errorf("no %q on the console within %v; since the last match it printed:\n%s", pattern, timeout, tail)
		}
	}
}

// Close ends the connection.
func (c *Console) Close() { c.conn.Close() }
