package control

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Host is a netd of this machine: a process with a network namespace and a
// root directory of its own, with its database on a disk of the machine.
type Host struct {
	Router
	cmd    *exec.Cmd
	root   string
	exited chan error
}

// startUp is how long netd takes memory for speed after its start, and a little
// more (see firmware/netd).
const startUp = 10 * time.Second

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// hostBoard is a router with two Ethernet ports.
const hostBoard = `{"id":"bench","name":"two veths","arch":{"goarch":"amd64"},"ram":64,"ports":{"lan":["lan0"],"wan":"wan0"},
"mac":"nic","console":{"device":"ttyS0","baud":115200},"watchdog":false,"rtc":true,"data":{"serial":"x"},"wifi":"no","cmdline":"x"}`

// Addresses of the router that StartHost makes: those of documentation, and of
// its LAN.
var (
	wanAddress = netip.MustParsePrefix("192.0.2.2/24")
	wanGateway = netip.MustParseAddr("192.0.2.1")
	lanAddress = netip.MustParsePrefix("192.168.1.1/24")
)

// StartHost starts the program netd (cmd/netd, linked statically) with its
// files below dir, in a new network namespace in which wan0 and lan0 are veths
// whose other ends are isp0 and pc0. Its log goes to log.
func StartHost(ctx context.Context, netd, dir string, log io.Writer) (*Host, error) {
	h := &Host{root: dir, exited: make(chan error, 1)}
	if err := h.files(netd); err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// The thread never comes back: it is in namespaces of its own, and the
		// process that it started gets them.
		runtime.LockOSThread()
		started <- h.start(log)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	go func() { h.exited <- h.cmd.Wait() }()
	h.PID = h.cmd.Process.Pid
	h.API = api.NewClient(filepath.Join(dir, api.Socket))
	for {
		err := h.API.Call(ctx, api.MethodHealth, nil, nil)
		if err == nil {
			return h, wait(ctx, startUp)
		}
		select {
		case err := <-h.exited:
			return nil, fmt.Errorf("netd ended: %w", err)
		case <-ctx.Done():
			h.Stop()
			return nil, fmt.Errorf("netd does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// files makes what netd expects to find on the router.
func (h *Host) files(netd string) error {
	for _, d := range []string{"proc", "sys", "dev", "data", "tmp", "bin", "etc/culvert", "run/culvert"} {
		if err := os.MkdirAll(filepath.Join(h.root, d), 0o755); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(netd)
	if err != nil {
		return err
	}
	s := settings.Default()
	s.System.NTP.Servers = nil // this clock is the machine's
	s.Firewall.Offload = false // the machine's kernel may lack flowtables
	s.LAN.Address = lanAddress
	s.WAN.Mode, s.WAN.Static.Address, s.WAN.Static.Gateway = settings.WANStatic, wanAddress, wanGateway
	s.DNS.Upstreams = []netip.Addr{wanGateway}
	for path, f := range map[string]struct {
		mode os.FileMode
		b    []byte
	}{
		"bin/netd":                          {0o755, b},
		"etc/culvert/board.json":            {0o644, []byte(hostBoard)},
		"etc/culvert/version":               {0o644, []byte("culvert v0-bench\n")},
		"run/culvert/initial-settings.json": {0o600, settings.Export(s, true)},
	} {
		if err := os.WriteFile(filepath.Join(h.root, path), f.b, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// start makes the namespaces of this thread and starts netd in them.
func (h *Host) start(log io.Writer) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	for dir, fstype := range map[string]string{"proc": "proc", "sys": "sysfs", "dev": "devtmpfs"} {
		if err := unix.Mount(fstype, filepath.Join(h.root, dir), fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for line := range strings.Lines(`link set lo up
		link add wan0 type veth peer name isp0
		link add lan0 type veth peer name pc0
		link set isp0 up
		link set pc0 up`) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.TrimSpace(line), err, out)
		}
	}
	h.cmd = exec.Command("/bin/netd")
	h.cmd.Dir, h.cmd.Stdout, h.cmd.Stderr = "/", log, log
	h.cmd.Env = []string{"GOMEMLIMIT=16MiB", "GOGC=50"}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: h.root}
	return h.cmd.Start()
}

// Stop ends netd; its namespaces go with it.
func (h *Host) Stop() {
	h.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-h.exited:
	case <-time.After(10 * time.Second):
		h.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-h.exited
	}
}
