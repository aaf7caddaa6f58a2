package sshd

import (
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// claimFrom connects to an unclaimed router from an address and asks for a
// session; refusal is why there is none.
func (f *fixture) claimFrom(t *testing.T, from string) (c *ssh.Client, refusal string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	nc, err := d.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(nc, f.addr, &ssh.ClientConfig{User: "admin", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		nc.Close()
		return nil, err.Error()
	}
	c = ssh.NewClient(conn, chans, reqs)
	t.Cleanup(func() { c.Close() })
	if _, err := c.NewSession(); err != nil {
		return c, err.Error()
	}
	return c, ""
}

// await repeats the claim until it is admitted: the server learns of a closed
// connection a moment later.
func (f *fixture) await(t *testing.T, from string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, refusal := f.claimFrom(t, from)
		if refusal == "" {
			return
		}
		if c != nil {
			c.Close()
		}
		if time.Now().After(end) {
			t.Fatalf("the place of a closed connection is not given back to %s: %s", from, refusal)
		}
	}
}

// TestUnclaimedPlaces: two connections an address, eight in all, and each
// refusal says why.
func TestUnclaimedPlaces(t *testing.T) {
	f := start(t, Config{}, true)
	var first *ssh.Client
	for _, from := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		for i := range maxUnclaimed {
			c, refusal := f.claimFrom(t, from)
			if refusal != "" {
				t.Fatalf("%s, connection %d: %s", from, i+1, refusal)
			}
			if first == nil {
				first = c
			}
		}
		c, refusal := f.claimFrom(t, from)
		if !strings.Contains(refusal, "2 connections from "+from+" are claiming this router already") {
			t.Fatalf("%s, one too many: %q", from, refusal)
		}
		c.Close()
	}
	c, refusal := f.claimFrom(t, "127.0.0.5")
	if !strings.Contains(refusal, "8 connections are in use already") {
		t.Fatalf("the ninth: %q", refusal)
	}
	c.Close()
	first.Close()
	f.await(t, "127.0.0.1")
}

// TestRefusedStayFew holds refused connections open: they take the places of
// connections that have not logged in, so they can't pile up.
func TestRefusedStayFew(t *testing.T) {
	f := start(t, Config{}, true)
	var held []*ssh.Client
	for i := range maxUnclaimed + maxUnauthenticated1 {
		c, refusal := f.claimFrom(t, "127.0.0.1")
		if c == nil || (refusal == "") != (i < maxUnclaimed) {
			t.Fatalf("connection %d: %q", i+1, refusal)
		}
		held = append(held, c)
	}
	if c, refusal := f.claimFrom(t, "127.0.0.1"); c != nil {
		t.Errorf("a connection more than the places was served: %q", refusal)
	}
	for _, c := range held {
		c.Close()
	}
	f.await(t, "127.0.0.1")
}

// TestOneSessionUnclaimed: a connection to an unclaimed router has one session
// in its life, and the server ends it when the client does not.
func TestOneSessionUnclaimed(t *testing.T) {
	f := start(t, Config{}, true)
	c, err := f.dial("admin")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := sess.Run("show version"); err == nil {
		t.Error("a command ran")
	}
	if _, err := c.NewSession(); err == nil {
		t.Error("a second session began after the first")
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * lingerTime):
		t.Error("the connection stays")
	}
}
