package lab

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/transcript"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// Live runs a command of the router's shell on an SSH connection and calls then
// once it has printed mark; it returns what was printed in all.
func Live(c *ssh.Client, command, mark string, then func()) (string, error) {
	s, err := c.NewSession()
	for deadline := time.Now().Add(10 * time.Second); err != nil; s, err = c.NewSession() {
		// The router may not have noticed yet that a session before has ended.
		if time.Now().After(deadline) {
			return "", err
		}
		time.Sleep(100 * time.Millisecond)
	}
	defer s.Close()
	var out transcript.Buffer
	s.Stdout, s.Stderr = &out, &out
	limit := time.AfterFunc(120*time.Second, func() { c.Close() })
	defer limit.Stop()
	if err := s.Start(command); err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- s.Wait() }()
	for {
		select {
		case err := <-done:
			if err != nil {
				err = fmt.Errorf("%s: %w\n%s", command, err, out.String())
			}
			return out.String(), err
		case <-time.After(50 * time.Millisecond):
		}
		if then != nil && strings.Contains(out.String(), mark) {
			then()
			then = nil
		}
	}
}

// Start starts a program that ends with the (sub)test, which does not wait for
// that.
func (l *Lab) Start(h *peers.Host, argv ...string) {
	l.t.Helper()
	p, err := h.Start(argv...)
	l.check(err)
	l.ends(h, p)
}

// ends stops a program when the (sub)test has ended, and waits for it only when
// it has to tell what it printed.
func (l *Lab) ends(h *peers.Host, p *peers.Process) {
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.stop(h, p)
			return
		}
		go p.Stop()
	})
}

// Write makes a file of a host.
func (l *Lab) Write(h *peers.Host, path, data string) {
	l.t.Helper()
	l.check(h.Write(path, data, 0o644))
}

// Check ends the test on an error.
func (l *Lab) Check(err error) {
	l.t.Helper()
	l.check(err)
}

// Route leads packets of the test's own to an address.
func (l *Lab) Route(to, via, dev string) {
	l.t.Helper()
	l.check(l.NS.Exec("ip", "route", "replace", to+"/32", "via", via, "dev", dev))
}

// Cleanup calls f when the (sub)test has ended.
func (l *Lab) Cleanup(f func()) { l.t.Cleanup(f) }
