// Package vm runs a board's image in QEMU. What the machine looks like is data in board.json.
package vm

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/board"
)

// NetKind says what a network card is plugged into.
type NetKind int

const (
	User   NetKind = iota // QEMU's own user-mode network
	Tap                   // a tap device of the host that exists already
	Socket                // a unix socket on which QEMU listens
	None                  // nothing: the card is there, its cable is not
	Absent                // there is no card
)

// Net is one network card's other end.
type Net struct {
	Kind NetKind
	Name string // Tap: device; Socket: path
	Port int    // User on the LAN: port of 127.0.0.1 that leads to the router's SSH; 0: none
}

// DefaultSSHPort leads from the host to the router's SSH.
const DefaultSSHPort = 2222

// ParseNet reads user[:PORT], tap:NAME, socket:PATH or none. Only the LAN's user network has a
// port; lan says whether this is the LAN.
func ParseNet(s string, lan bool) (Net, error) {
	kind, arg, has := strings.Cut(s, ":")
	switch {
	case kind == "user" && !has && lan:
		return Net{Kind: User, Port: DefaultSSHPort}, nil
	case kind == "user" && !has:
		return Net{Kind: User}, nil
	case kind == "user" && lan:
		port, err := strconv.Atoi(arg)
		if err != nil || port < 1 || port > 65535 {
			return Net{}, fmt.Errorf("%q: the port must be 1 to 65535", s)
		}
		return Net{Kind: User, Port: port}, nil
	case kind == "user":
		return Net{}, fmt.Errorf("%q: only the LAN has a port that leads to SSH; write user", s)
	case kind == "tap" && arg != "":
		return Net{Kind: Tap, Name: arg}, nil
	case kind == "socket" && arg != "":
		return Net{Kind: Socket, Name: arg}, nil
	case s == "none":
		return Net{Kind: None}, nil
	}
	return Net{}, fmt.Errorf("network %q: must be user[:PORT], tap:NAME, socket:PATH or none", s)
}

// Console says where the router's serial console goes.
type Console struct {
	Kind string // "stdio", "unix" or "file"
	Path string
}

// ParseConsole reads stdio, unix:PATH or file:PATH.
func ParseConsole(s string) (Console, error) {
	kind, path, _ := strings.Cut(s, ":")
	switch {
	case s == "stdio":
		return Console{Kind: "stdio"}, nil
	case (kind == "unix" || kind == "file") && path != "":
		return Console{kind, path}, nil
	}
	return Console{}, fmt.Errorf("serial console %q: must be stdio, unix:PATH or file:PATH", s)
}

// Options describe one virtual machine.
type Options struct {
	Board    *board.Board
	Dir      string // folder of the finished image
	LAN, WAN Net
	Serial   Console
	Mem      int    // megabytes; 0: what the board has
	Data     string // raw disk for /data
	Settings string // raw disk with initial settings; empty: none

	LANMAC, WANMAC string // empty: DefaultLANMAC, DefaultWANMAC
	Append         string // added to the kernel's command line
	QMP            string // unix socket for QEMU's control protocol; empty: none
	PIDFile        string // QEMU writes its process id there; empty: none

	Counted bool   // the machine's clock counts instructions, 1 ns each, and stands still for nothing else
	Bench   string // raw disk with the benchmark's programs, and a second serial line; empty: none
	Line    string // unix socket of that line
}

// The cards' addresses are fixed, so that a router keeps its identity between runs.
const (
	DefaultLANMAC = "52:54:00:c0:00:01"
	DefaultWANMAC = "52:54:00:c0:00:02"
)

// countedStart is the time of day at which a machine with a counted clock starts.
const countedStart = "2026-01-01T00:00:00"

// Disk serial numbers by which the router knows its disks.
const (
	rootSerial     = "culvert-root"
	settingsSerial = "culvert-settings"
)

// Args returns QEMU's arguments.
func (o *Options) Args() ([]string, error) {
	q := o.Board.QEMU
	if q == nil {
		return nil, fmt.Errorf("board %s does not run in QEMU: its board.json has no qemu part", o.Board.ID)
	}
	if o.Settings != "" && o.Board.SettingsDisk != settingsSerial {
		return nil, fmt.Errorf("board %s takes no settings disk: its board.json has no settings_disk", o.Board.ID)
	}
	mem := o.Mem
	if mem == 0 {
		mem = o.Board.RAM
	}
	cmdline := strings.TrimSpace(o.Board.Cmdline + " " + o.Append)
	rtc := []string{"-rtc", "base=utc,clock=host"}
	if o.Counted {
		// sleep=off: while the CPU waits for a timer, the clock leaps there. The RTC is by
		// the same clock, as malta's kernel measures the CPU's speed by it.
		rtc = []string{"-icount", "shift=0,sleep=off", "-rtc", "base=" + countedStart + ",clock=vm"}
	}
	args := []string{
		"-nodefaults", "-display", "none", "-accel", "tcg",
		"-machine", q.Machine, "-m", strconv.Itoa(mem),
		"-kernel", filepath.Join(o.Dir, "kernel"), "-append", cmdline,
	}
	args = append(args, rtc...)
	if q.CPU != "" {
		args = append(args, "-cpu", q.CPU)
	}
	args = append(args, q.Args...)
	serial, err := o.serialArgs()
	if err != nil {
		return nil, err
	}
	args = append(args, serial...)
	args = append(args, o.netArgs("lan", o.LAN, orElse(o.LANMAC, DefaultLANMAC))...)
	args = append(args, o.netArgs("wan", o.WAN, orElse(o.WANMAC, DefaultWANMAC))...)
	args = append(args, o.disk("root", filepath.Join(o.Dir, "rootfs.squashfs"), rootSerial, true)...)
	args = append(args, o.disk("data", o.Data, o.Board.Data.Serial, false)...)
	if o.Settings != "" {
		args = append(args, o.disk("settings", o.Settings, settingsSerial, true)...)
	}
	if o.Bench != "" {
		args = append(args, o.disk("bench", o.Bench, "", true)...)
		args = append(args, "-no-reboot", "-chardev", "socket,id=line,server=on,wait=off,path="+escape(o.Line), "-serial", "chardev:line")
	}
	if q.RNG != "" {
		args = append(args, "-device", o.device("rng", q.RNG))
	}
	if q.Watchdog != "" {
		args = append(args, "-device", o.device("watchdog", q.Watchdog))
	}
	if o.QMP != "" {
		args = append(args, "-qmp", "unix:"+escape(o.QMP)+",server=on,wait=off")
	}
	if o.PIDFile != "" {
		args = append(args, "-pidfile", o.PIDFile)
	}
	if len(o.unplugged()) > 0 {
		// The machine waits for Run to pull the cables through this socket.
		args = append(args, "-S", "-chardev", "socket,id=cables,fd="+strconv.Itoa(cablesFD), "-mon", "chardev=cables,mode=control")
	}
	return args, nil
}

func (o *Options) serialArgs() ([]string, error) {
	switch o.Serial.Kind {
	case "stdio":
		// The multiplexer gives Ctrl-A X; Ctrl-C goes to the router.
		return []string{"-serial", "mon:stdio"}, nil
	case "unix":
		return []string{"-chardev", "socket,id=console,server=on,wait=off,path=" + escape(o.Serial.Path), "-serial", "chardev:console"}, nil
	case "file":
		return []string{"-chardev", "file,id=console,path=" + escape(o.Serial.Path), "-serial", "chardev:console"}, nil
	}
	return nil, errors.New("no serial console is set")
}

// netArgs: the first card is the LAN's, the second the WAN's, on every board. A card whose cable is
// not plugged in is there all the same, or the other would take its place.
func (o *Options) netArgs(role string, n Net, mac string) []string {
	var netdev string
	switch n.Kind {
	case Absent:
		return nil
	case None:
		// QEMU warns of a card without a network, so this is one that leads nowhere; see unplug.
		netdev = "user,id=" + role + ",ipv6=off,restrict=on"
	case Tap:
		netdev = "tap,id=" + role + ",script=no,downscript=no,ifname=" + escape(n.Name)
	case Socket:
		netdev = "stream,id=" + role + ",server=on,addr.type=unix,addr.path=" + escape(n.Name)
	case User:
		netdev = "user,id=" + role + ",ipv6=off"
		if role == "lan" {
			// restrict: the LAN's other end is a host, not a second way to the Internet.
			netdev += ",restrict=on,net=192.168.1.0/24,host=192.168.1.254,dns=192.168.1.253"
			if n.Port != 0 {
				netdev += ",hostfwd=tcp:127.0.0.1:" + strconv.Itoa(n.Port) + "-192.168.1.1:22"
			}
		}
	}
	// An empty romfile: nothing boots from the network, and the ROMs are a package of their own.
	return []string{"-netdev", netdev, "-device", o.device(role, o.Board.QEMU.NIC) + ",netdev=" + role + ",mac=" + mac + ",romfile="}
}

func (o *Options) disk(role, file, serial string, readOnly bool) []string {
	drive := "if=none,format=raw,id=" + role + ",file=" + escape(file)
	if readOnly {
		drive += ",readonly=on"
	}
	dev := o.device(role, o.Board.QEMU.Disk) + ",drive=" + role
	if serial != "" {
		dev += ",serial=" + serial
	}
	return []string{"-drive", drive, "-device", dev}
}

// device names a device model and the slot that the board has for this role.
func (o *Options) device(role, model string) string {
	if slot := o.Board.QEMU.PCI[role]; slot != "" {
		return model + ",addr=" + slot
	}
	return model
}

// escape doubles commas, which separate options in QEMU's arguments.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
