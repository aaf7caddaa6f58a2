package netd

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
)

// TestInitClient: a connection that is gone is made anew, a refusal is final.
func TestInitClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var asked, refuse atomic.Int64
	conns := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
			go func() {
				for sc := bufio.NewScanner(c); sc.Scan(); {
					var req initctl.Request
					if err := json.Unmarshal(sc.Bytes(), &req); err != nil {
						t.Error(err)
					}
					asked.Add(1)
					rep := initctl.Reply{ID: req.ID}
					if refuse.Load() != 0 {
						rep.Error = "no service " + req.Name
					}
					if err := json.NewEncoder(c).Encode(rep); err != nil {
						t.Error(err)
					}
				}
			}()
		}
	}()
	i := &initClient{path: path}
	kill := func(c *initctl.Client) error { return c.Kill("edge") }
	if err := i.with(kill); err != nil || asked.Load() != 1 {
		t.Fatalf("%v after %d requests", err, asked.Load())
	}
	(<-conns).Close() // init closed it meanwhile
	if err := i.with(kill); err != nil || asked.Load() != 2 {
		t.Errorf("on a connection that is gone: %v after %d requests, want 2", err, asked.Load())
	}
	refuse.Store(1)
	if err := i.with(kill); err == nil || asked.Load() != 3 {
		t.Errorf("a refusal: %v after %d requests, want 3", err, asked.Load())
	}
	refuse.Store(0)
	if err := i.with(kill); err != nil || asked.Load() != 4 {
		t.Errorf("after a refusal: %v after %d requests, want 4", err, asked.Load())
	}
	ln.Close()
	for len(conns) > 0 {
		(<-conns).Close()
	}
	if err := i.with(kill); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with init gone: %v", err)
	}
}
