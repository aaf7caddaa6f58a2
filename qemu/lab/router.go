package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/transcript"
)

// Router is a board's image in QEMU, started with vmrun as a person would.
type Router struct {
	Console *Console
	lab     *Lab
	cmd     *exec.Cmd
	done    chan struct{}
	stderr  bytes.Buffer
	qmp     string

	mu         sync.Mutex
	shared     *ssh.Client // what commands share
	sharedAddr string
}

// startRouter boots the router with its two NICs on the lab's taps.
func (l *Lab) startRouter() (*Router, error) {
	l.boots++
	r := &Router{lab: l, done: make(chan struct{}), qmp: filepath.Join(l.dir, fmt.Sprintf("qmp%d", l.boots))}
	serial := filepath.Join(l.dir, fmt.Sprintf("serial%d", l.boots))
	args := []string{"-board", l.cfg.Board, "-serial", "unix:" + serial, "-mem", fmt.Sprint(l.cfg.MemMB),
		"-lan", "tap:rlan", "-wan", "tap:rwan", "-data", l.dataFile, "-qmp", r.qmp}
	if l.settingsFile != "" {
		args = append(args, "-settings", l.settingsFile)
	}
	r.cmd = exec.Command(l.vmrun, append(args, l.extra...)...)
	r.cmd.Dir = l.top
	r.cmd.Stdout, r.cmd.Stderr = &r.stderr, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := l.NS.Do(r.cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		r.cmd.Wait()
		close(r.done)
	}()
	var err error
	r.Console, err = openConsole(serial, 60*time.Second, r.done)
	if err != nil {
		r.Stop()
		return nil, fmt.Errorf("%w\nvmrun said:\n%s", err, r.stderr.String())
	}
	return r, nil
}

// Stop ends QEMU as if the power was cut; vmrun has 10 s for it.
func (r *Router) Stop() error {
	select {
	case <-r.done:
		return nil
	default:
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
		return nil
	case <-time.After(10 * time.Second):
		syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		<-r.done
		return errors.New("vmrun did not end within 10 s of SIGTERM")
	}
}

// Done is closed when vmrun has ended.
func (r *Router) Done() <-chan struct{} { return r.done }

// SSH connects as the admin with the lab's key.
func (r *Router) SSH(addr string) (*ssh.Client, error) {
	return r.lab.ssh(addr, ssh.PublicKeys(r.lab.Key))
}

func (l *Lab) ssh(addr string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	conn, err := l.NS.Dial(net.Dialer{Timeout: 10 * time.Second}, "tcp4", net.JoinHostPort(addr, "22"))
	if err != nil {
		return nil, err
	}
	if l.cfg.Stop != nil {
		go func() { // a handshake or a command may be under way
			<-l.cfg.Stop
			conn.Close()
		}()
	}
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	cc, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "admin", Auth: auth,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.hostKey = key
			return nil
		},
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return ssh.NewClient(cc, chans, reqs), nil
}

// Command runs one command of the router's shell over SSH, in a session of its
// own.
func (r *Router) Command(command string) (string, error) {
	return r.CommandWith(command, nil)
}

// CommandWith is Command with something on its standard input.
func (r *Router) CommandWith(command string, stdin []byte) (string, error) {
	s, drop, err := r.session()
	if err != nil {
		return "", err
	}
	defer s.Close()
	var out transcript.Buffer
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(stdin), &out, &out
	limit := time.AfterFunc(120*time.Second, drop)
	defer limit.Stop()
	if err := s.Run(command); err != nil {
		if _, ok := errors.AsType[*ssh.ExitError](err); !ok {
			drop()
		}
		return out.String(), fmt.Errorf("%s: %w\n%s", command, err, out.String())
	}
	return out.String(), nil
}

// session opens a session on the connection that commands share: a handshake
// takes the router a second. drop ends that connection.
func (r *Router) session() (s *ssh.Session, drop func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	addr := r.lab.LANAddress
	for range 2 {
		fresh := r.shared == nil || r.sharedAddr != addr
		if fresh {
			if r.shared != nil {
				r.shared.Close()
				r.shared = nil
			}
			c, err := r.SSH(addr)
			if err != nil {
				return nil, nil, fmt.Errorf("ssh %s: %w", addr, err)
			}
			r.shared, r.sharedAddr = c, addr
		}
		c := r.shared
		limit := time.AfterFunc(5*time.Second, func() { c.Close() }) // of before a reboot, perhaps
		s, err = c.NewSession()
		limit.Stop()
		if err == nil {
			return s, func() { c.Close() }, nil
		}
		c.Close()
		r.shared = nil
		if fresh {
			break
		}
	}
	return nil, nil, err
}

// Configure makes changes in one interactive session and commits them: each
// line is typed as a person would; the session ends with "exit".
func (r *Router) Configure(lines ...string) (string, error) {
	c, err := r.SSH(r.lab.LANAddress)
	if err != nil {
		return "", err
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	script := strings.Join(append(lines, "commit", "exit"), "\n") + "\n"
	s.Stdin = strings.NewReader(script)
	var out transcript.Buffer
	s.Stdout, s.Stderr = &out, &out
	limit := time.AfterFunc(90*time.Second, func() { c.Close() })
	defer limit.Stop()
	if err := s.Shell(); err != nil {
		return "", err
	}
	err = s.Wait()
	return out.String(), err
}

// top finds the module's root folder from the working directory.
func top() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.mod above the working directory")
}
