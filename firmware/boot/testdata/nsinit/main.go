// Command nsinit runs package boot as PID 1 of a namespace whose root is the
// folder it is given, and is the services that run in there too.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/boot"
	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/supervise"
)

const apiSock = "/run/culvert/api.sock"

func main() {
	switch os.Args[1] {
	case "init":
		runInit(os.Args[2])
	case "netd":
		netd()
	case "edge":
		edge()
	case "ask": // init, for its services
		c, err := initctl.DialPath(os.Args[2])
		must(err)
		_, err = c.Services()
		fmt.Println("services:", err)
	case "orphan": // outlives its parent, and its parent's group
		time.Sleep(200 * time.Millisecond)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "nsinit:", err)
		os.Exit(3)
	}
}

// runInit changes its root to dir and becomes init. dir/flags has words that
// change what init is given.
func runInit(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "flags"))
	must(err)
	flags := string(b)
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dev := filepath.Join(dir, "dev")
	must(unix.Mount("tmpfs", dev, "tmpfs", 0, "mode=0755"))
	mknod := func(name string, mode uint32, major, minor uint32) {
		must(unix.Mknod(filepath.Join(dev, name), mode|0o666, int(unix.Mkdev(major, minor))))
	}
	mknod("null", unix.S_IFCHR, 1, 3)
	mknod("urandom", unix.S_IFCHR, 1, 9)
	must(os.WriteFile(filepath.Join(dev, "console-of-test"), nil, 0o600))
	var disk boot.Disk
	for _, w := range strings.Fields(flags) {
		if n, ok := strings.CutPrefix(w, "loop="); ok {
			var minor uint32
			_, err := fmt.Sscan(n, &minor)
			must(err)
			mknod("data", unix.S_IFBLK, 7, minor)
			disk.Path = "/dev/data"
		}
	}
	must(unix.Chroot(dir))
	must(os.Chdir("/"))

	o := boot.Default()
	var mounts []boot.Mount
	for _, m := range o.Mounts { // all but the host's real devices
		if m.Type != "devtmpfs" {
			mounts = append(mounts, m)
		}
	}
	o.Mounts = mounts
	o.Sysctls = []boot.Sysctl{ // only what belongs to the network namespace
		{Name: "net.ipv6.conf.default.disable_ipv6", Value: "1", Optional: true},
		{Name: "net.ipv4.no.such_thing", Value: "1", Optional: true},
	}
	o.Cmdline = "/cmdline"
	o.Kmsg = ""
	o.Hardware = func() (boot.Hardware, error) {
		return boot.Hardware{Board: "namespace", Console: "/dev/console-of-test", DataDisk: disk, Watchdog: true}, nil
	}
	dropAll := o.DropAll
	o.DropAll = func() error {
		if strings.Contains(flags, "no-firewall") {
			return errors.New("the kernel refuses it")
		}
		must(os.WriteFile("/run/links-at-drop-all", []byte(upLinks()), 0o644))
		return dropAll()
	}
	o.OpenWatchdog = func() (boot.Watchdog, error) { return dog{}, nil }
	o.Health.Every, o.Health.Answer = 50*time.Millisecond, time.Second
	o.Health.Grace, o.Health.KillAfter, o.Health.StopAfter = 10*time.Second, 500*time.Millisecond, 3*time.Second
	o.Services = func(env boot.ServiceEnv) []supervise.Service {
		services := boot.Default().Services(env)
		for i := range services {
			s := &services[i]
			s.Argv = []string{"/nsinit", s.Name}
			s.Env = append(s.Env, "FLAGS="+flags)
			s.Backoff.Min = 10 * time.Millisecond
		}
		return services
	}
	boot.Run(o)
}

// dog is a watchdog that counts in a file.
type dog struct{}

func (dog) Name() string                    { return "test" }
func (dog) Timeout() (time.Duration, error) { return 60 * time.Millisecond, nil }
func (dog) Ping() error                     { return add("/run/pings") }
func (dog) Close() error                    { return add("/run/disarmed") }

func add(path string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(".")
	return errors.Join(err, f.Close())
}

func upLinks() string {
	var up []string
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		if i.Flags&net.FlagUp != 0 {
			up = append(up, i.Name)
		}
	}
	return strings.Join(up, " ")
}

// netd answers health checks until SIGUSR1.
func netd() {
	fmt.Println("netd: started", "failed="+os.Getenv("CULVERT_BOOT_FAILED"), "links="+upLinks())
	start, err := os.StartProcess("/nsinit", []string{"nsinit", "orphan"}, &os.ProcAttr{
		Files: []*os.File{nil, nil, nil}, Sys: &unix.SysProcAttr{Setsid: true},
	})
	must(err)
	must(start.Release())
	if strings.Contains(os.Getenv("FLAGS"), "deaf") {
		time.Sleep(time.Hour)
	}
	_ = os.Remove(apiSock)
	l, err := net.Listen("unix", apiSock)
	must(err)
	deaf := make(chan os.Signal, 1)
	signal.Notify(deaf, unix.SIGUSR1)
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	go func() {
		<-term
		fmt.Println("netd: stopping")
		must(os.WriteFile("/data/saved", []byte("by netd"), 0o644))
		os.Exit(0)
	}()
	go func() {
		<-deaf
		fmt.Println("netd: hangs")
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			time.Sleep(time.Hour)
		}
		go func() {
			defer c.Close()
			var req struct {
				ID     int    `json:"id"`
				Method string `json:"method"`
			}
			line, err := bufio.NewReader(c).ReadBytes('\n')
			if err != nil || json.Unmarshal(line, &req) != nil || req.Method != "health" {
				return
			}
			fmt.Fprintf(c, "{\"id\":%d,\"result\":null}\n", req.ID)
		}()
	}
}

// edge says what it may do, and that it cannot speak to init.
func edge() {
	fmt.Println("edge: uid", os.Getuid(), "console", os.Getenv("CULVERT_CONSOLE"))
	f, err := os.OpenFile(os.Getenv("CULVERT_CONSOLE"), os.O_RDWR, 0)
	fmt.Println("edge: console error:", err)
	if err == nil {
		f.Close()
	}
	_, err = net.Dial("unix", "/run/culvert/init.sock")
	fmt.Println("edge: init says:", err)
	ready := os.NewFile(3, os.Getenv(supervise.ReadyEnv))
	_, err = ready.Write([]byte{'\n'})
	must(err)
	time.Sleep(time.Hour)
}
