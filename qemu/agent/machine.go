package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// root is where the peers' root file system (the host's folder) is mounted.
const root = "/peers"

// machine is the PID 1 of the user-mode Linux: it owns the hosts.
type machine struct {
	mu    sync.Mutex
	hosts map[string]*host
	self  *runner
}

// host is the pipe to the agent process inside a host's namespaces.
type host struct {
	pid     int
	mu      sync.Mutex // one writer at a time
	in      *json.Encoder
	waiting map[uint64]chan peers.Reply
	wmu     sync.Mutex
}

func serveMachine() error {
	if err := mounts(); err != nil {
		return err
	}
	// The management link has a fixed place: the last NIC.
	for _, argv := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "add", "10.254.0.2/24", "dev", "vec2"},
		{"ip", "link", "set", "vec2", "up"},
	} {
		if out, err := chrooted(argv...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", argv, err, out)
		}
	}
	l, err := net.Listen("tcp", peers.AgentAddr)
	if err != nil {
		return err
	}
	fmt.Println("agent: ready")
	m := &machine{hosts: map[string]*host{}, self: newRunner(root)}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go m.serve(c)
	}
}

// chrooted is a command in the peers' root file system.
func chrooted(argv ...string) *exec.Cmd {
	cmd := &exec.Cmd{Path: "/usr/bin/env", Args: append([]string{"env"}, argv...), Env: environment, Dir: "/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	return cmd
}

func mounts() error {
	for _, m := range []struct{ src, dst, typ, opt string }{
		{"proc", "/proc", "proc", ""},
		{"dev", "/dev", "devtmpfs", ""},
		{"tmp", "/tmp", "tmpfs", ""},
	} {
		os.MkdirAll(m.dst, 0o755)
		if err := syscall.Mount(m.src, m.dst, m.typ, 0, m.opt); err != nil && err != syscall.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dst, err)
		}
	}
	dir, err := cmdline("peers.root")
	if err != nil {
		return err
	}
	os.MkdirAll("/lower", 0o755)
	if err := syscall.Mount("none", "/lower", "hostfs", syscall.MS_RDONLY, dir); err != nil {
		return fmt.Errorf("mount hostfs %s: %w", dir, err)
	}
	return overlay("machine", root)
}

// overlay puts a private, writable view of the peers' root on dst and mounts
// what programs expect in it.
func overlay(name, dst string) error {
	upper, work := "/tmp/"+name+"/upper", "/tmp/"+name+"/work"
	for _, d := range []string{upper, work, dst} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	opt := fmt.Sprintf("lowerdir=/lower,upperdir=%s,workdir=%s", upper, work)
	if err := syscall.Mount("overlay", dst, "overlay", 0, opt); err != nil {
		return fmt.Errorf("overlay %s: %w", dst, err)
	}
	for _, m := range []struct{ src, dst, typ, opt string }{
		{"proc", "/proc", "proc", ""},
		{"sys", "/sys", "sysfs", ""},
		{"dev", "/dev", "devtmpfs", ""},
		{"pts", "/dev/pts", "devpts", "newinstance,ptmxmode=0666"},
		{"run", "/run", "tmpfs", "mode=755"},
		{"tmp", "/tmp", "tmpfs", ""},
	} {
		os.MkdirAll(dst+m.dst, 0o755)
		if err := syscall.Mount(m.src, dst+m.dst, m.typ, 0, m.opt); err != nil {
			return fmt.Errorf("mount %s%s: %w", dst, m.dst, err)
		}
	}
	return nil
}

func cmdline(key string) (string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for _, f := range strings.Fields(string(b)) {
		if v, ok := strings.CutPrefix(f, key+"="); ok {
			return v, nil
		}
	}
	return "", fmt.Errorf("no %s= on the kernel command line", key)
}

// serve answers one connection; requests run side by side.
func (m *machine) serve(c net.Conn) {
	defer c.Close()
	var mu sync.Mutex
	enc := json.NewEncoder(c)
	dec := json.NewDecoder(bufio.NewReader(c))
	for {
		var r peers.Request
		if err := dec.Decode(&r); err != nil {
			return
		}
		go func() {
			reply := m.do(r)
			reply.ID = r.ID
			mu.Lock()
			defer mu.Unlock()
			enc.Encode(reply)
		}()
	}
}

func (m *machine) do(r peers.Request) peers.Reply {
	if r.Op == "host" {
		return m.addHost(r.Host)
	}
	if r.Host == "" {
		return m.self.do(r)
	}
	m.mu.Lock()
	h := m.hosts[r.Host]
	m.mu.Unlock()
	if h == nil {
		return peers.Reply{Err: "no host " + r.Host}
	}
	return h.call(r)
}

// addHost starts an agent in new namespaces: a host's processes end with it.
func (m *machine) addHost(name string) peers.Reply {
	cmd := exec.Command("/proc/self/exe", "host", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return peers.Reply{Err: err.Error()}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return peers.Reply{Err: err.Error()}
	}
	if err := cmd.Start(); err != nil {
		return peers.Reply{Err: err.Error()}
	}
	h := &host{pid: cmd.Process.Pid, in: json.NewEncoder(in), waiting: map[uint64]chan peers.Reply{}}
	go h.read(out)
	m.mu.Lock()
	m.hosts[name] = h
	m.mu.Unlock()
	reply := h.call(peers.Request{Op: "exec", Argv: []string{"ip", "link", "set", "lo", "up"}, Timeout: 10})
	reply.PID = h.pid
	return reply
}

var ids struct {
	sync.Mutex
	n uint64
}

func (h *host) call(r peers.Request) peers.Reply {
	ids.Lock()
	ids.n++
	r.ID = ids.n
	ids.Unlock()
	ch := make(chan peers.Reply, 1)
	h.wmu.Lock()
	h.waiting[r.ID] = ch
	h.wmu.Unlock()
	h.mu.Lock()
	err := h.in.Encode(r)
	h.mu.Unlock()
	if err != nil {
		return peers.Reply{Err: err.Error()}
	}
	reply, ok := <-ch
	if !ok {
		return peers.Reply{Err: "the host's agent ended"}
	}
	return reply
}

func (h *host) read(out io.Reader) {
	dec := json.NewDecoder(bufio.NewReader(out))
	for {
		var r peers.Reply
		if err := dec.Decode(&r); err != nil {
			break
		}
		h.wmu.Lock()
		ch := h.waiting[r.ID]
		delete(h.waiting, r.ID)
		h.wmu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	h.wmu.Lock()
	defer h.wmu.Unlock()
	for id, ch := range h.waiting {
		close(ch)
		delete(h.waiting, id)
	}
}
