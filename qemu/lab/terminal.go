package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/qemu/vm"
)

// Terminal is an interactive SSH session with what it printed.
type Terminal struct {
	*Console
}

// duplex makes a session's pipes what Console reads; with it ends the
// connection.
type duplex struct {
	io.Reader
	io.Writer
	io.Closer
}

// NewTerminal starts the shell of a session that has a pty; the connection c
// ends with the terminal.
func NewTerminal(s *ssh.Session, c io.Closer) (*Terminal, error) {
	in, inErr := s.StdinPipe()
	out, outErr := s.StdoutPipe()
	if err := errors.Join(inErr, outErr, s.Shell()); err != nil {
		c.Close()
		return nil, err
	}
	console := &Console{conn: duplex{out, in, c}, more: make(chan struct{})}
	go console.read()
	return &Terminal{Console: console}, nil
}

// Exchange waits for a text and then types.
func (c *Console) Exchange(want, typed string, limit time.Duration) error {
	if _, err := c.Expect(want, limit); err != nil {
		return err
	}
	return c.Type(typed)
}

// Claim types a new password at the prompt for it, and once more, and waits
// for the router's word.
func (c *Console) Claim(password string, limit time.Duration) error {
	for _, want := range []string{"New password, or key: ", "Once more: "} {
		if err := c.Exchange(want, password+"\r", limit); err != nil {
			return err
		}
	}
	_, err := c.Expect("The router is yours", limit)
	return err
}

// Activate presses Enter on the serial line until the router's shell greets.
func (r *Router) Activate(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		if err := r.Console.Type("\r"); err != nil {
			return err
		}
		_, err := r.Console.Expect(`The Internet already works|Password of admin: |culvert.*> ?$`, 2*time.Second)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// SSHAs connects as admin with other credentials than the lab's key.
func (l *Lab) SSHAs(addr string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return l.ssh(addr, auth...)
}

// scanner scans an address from the Internet, again and again, until stopped.
type scanner struct {
	last chan struct{} // closed: do not start another scan
	kill context.CancelFunc
	done chan struct{}
	once sync.Once
	out  bytes.Buffer
}

func (l *Lab) startScan(addr string) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &scanner{last: make(chan struct{}), kill: cancel, done: make(chan struct{})}
	l.scan = s
	go func() {
		defer close(s.done)
		for {
			b, err := l.Scan(ctx, addr, "-sS", "-p", "1-65535", "--min-rate", "6000")
			s.out.WriteString(b)
			if err != nil {
				fmt.Fprintf(&s.out, "nmap: %v\n", err)
				return
			}
			select {
			case <-s.last:
				return
			default:
			}
		}
	}()
	l.t.Cleanup(func() { s.kill(); <-s.done })
}

// Scan runs nmap on the WAN, where the test is a stranger. The router's
// hardware address is told in advance: packets go out even while it is silent.
func (l *Lab) Scan(ctx context.Context, addr string, args ...string) (string, error) {
	if err := l.NS.Exec("ip", "neigh", "replace", addr, "lladdr", vm.DefaultWANMAC, "dev", "wan", "nud", "permanent"); err != nil {
		return "", err
	}
	argv := append([]string{"netns", "exec", l.NS.Name, "nmap", "-n", "-Pn", "--disable-arp-ping", "--send-ip", "-T5", "--max-retries", "0", "--reason"}, args...)
	b, err := exec.CommandContext(ctx, "ip", append(argv, addr)...).CombinedOutput()
	return string(b), err
}

// Scanned ends the scans that have run since power-on, the last one when it is
// through, and returns their output.
func (l *Lab) Scanned() string {
	l.scan.once.Do(func() { close(l.scan.last) })
	select {
	case <-l.scan.done:
	case <-time.After(2 * time.Minute):
		l.scan.kill()
		<-l.scan.done
	}
	return l.scan.out.String()
}
