package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/supervise"
)

const (
	maxRequest  = 4096 // bytes
	maxControls = 16   // connections at once
	idleControl = 10 * time.Minute
)

// serveControl answers on the control socket until ctx is done.
func (m *machine) serveControl(ctx context.Context) {
	ln, err := listenControl(m.o.Socket)
	if err != nil {
		m.problem("Control socket: " + err.Error() + ".")
		return
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	slots := make(chan struct{}, maxControls)
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			m.log.Error("control socket", "err", err)
			select { // out of descriptors or memory: not in a tight loop
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
			m.spawn("control connection", func() {
				defer func() { <-slots }()
				defer c.Close()
				m.serveConn(c)
			})
		default:
			c.Close()
		}
	}
}

func listenControl(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	_ = os.Remove(path)
	// Nobody may connect between its creation and the change of its mode.
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// serveConn answers the requests of one connection.
func (m *machine) serveConn(c *net.UnixConn) {
	if uid, err := peerUID(c); err != nil || uid != 0 {
		m.log.Warn("control socket: refused", "uid", uid, "err", err)
		return
	}
	sc := bufio.NewScanner(c)
	sc.Buffer(make([]byte, 0, 512), maxRequest)
	for {
		_ = c.SetDeadline(time.Now().Add(idleControl))
		if !sc.Scan() {
			return
		}
		var req initctl.Request
		var rep initctl.Reply
		if err := json.Unmarshal(sc.Bytes(), &req); err != nil {
			rep.Error = "not a request: " + err.Error()
		} else {
			rep = m.answer(req)
		}
		b, err := json.Marshal(rep)
		if err != nil {
			return
		}
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(append(b, '\n')); err != nil {
			return
		}
		// Only now: the answer must not be lost in what follows.
		if k, ok := goesDown(req.Op); ok && rep.Error == "" {
			m.request(request{kind: k, why: "control socket"})
		}
	}
}

// peerUID returns the user at the other end of c, as the kernel knows it.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return cred.Uid, nil
}

// goesDown tells whether, and how, an operation ends the machine's run.
func goesDown(op string) (kind, bool) {
	switch op {
	case initctl.OpReboot:
		return reboot, true
	case initctl.OpPoweroff:
		return poweroff, true
	case initctl.OpFactoryReset:
		return factoryReset, true
	}
	return 0, false
}

// answer works a request out; those in goesDown begin after the answer.
func (m *machine) answer(req initctl.Request) initctl.Reply {
	rep := initctl.Reply{ID: req.ID}
	switch req.Op {
	case initctl.OpStatus:
		rep.Status = m.status()
	case initctl.OpServices:
		rep.Services = m.sup.Status()
	case initctl.OpLog:
		ring := m.logOf(req.Name)
		if ring == nil {
			rep.Error = fmt.Sprintf("there is no log %q; there are init, kernel and those of the services", req.Name)
			break
		}
		rep.Lines = ring.Tail(req.Lines)
	case initctl.OpKill:
		if err := m.sup.Signal(req.Name, unix.SIGKILL); err != nil {
			rep.Error = err.Error()
		}
	case initctl.OpReboot, initctl.OpPoweroff:
	case initctl.OpFactoryReset:
		if m.data.Device == "" {
			rep.Error = "nothing to reset: /data is in RAM; a reboot forgets it"
		}
	case initctl.OpPanic:
		if _, ok := m.cmdline["culvert.test"]; !ok {
			rep.Error = "only on a kernel started with culvert.test"
			break
		}
		panic("asked for by a test")
	default:
		rep.Error = fmt.Sprintf("unknown operation %q", req.Op)
	}
	return rep
}

func (m *machine) logOf(name string) *supervise.Ring {
	switch name {
	case initctl.LogInit:
		return m.ring
	case initctl.LogKernel:
		return m.kernel
	}
	return m.sup.Log(name)
}
