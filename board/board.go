// Package board reads what Culvert knows about a piece of hardware. A board is data: one
// board.json in its own folder under board/, carried (without its build-time part) by the image
// as /etc/culvert/board.json. Nothing here touches the system, so that planning code may use it.
package board

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Board describes one board. The fields up to WiFi reach the router; Kernel, DTS, QEMU, Image
// and Limits are for the build and the lab and are left out of the image (see [Board.Router]).
type Board struct {
	ID   string `json:"id"`   // folder name and image name, for example "qemu-mips"
	Name string `json:"name"` // for people
	Arch Arch   `json:"arch"`
	RAM  int    `json:"ram"` // megabytes (1024*1024) the board has at least

	Ports        Ports   `json:"ports"`
	MAC          string  `json:"mac"` // where addresses come from: "nic" (the hardware's own)
	Console      Console `json:"console"`
	Watchdog     bool    `json:"watchdog"` // there is a hardware watchdog at /dev/watchdog
	RTC          bool    `json:"rtc"`      // the clock goes on without power
	Data         Data    `json:"data"`
	SettingsDisk string  `json:"settings_disk,omitempty"` // disk serial initial settings may come from; empty: not allowed
	Quirks       []Quirk `json:"quirks,omitempty"`        // written early in the boot, in this order
	WiFi         string  `json:"wifi"`                    // "no" until a driver is proven

	Cmdline string  `json:"cmdline"` // of the kernel, complete
	Kernel  string  `json:"kernel,omitempty"`
	DTS     string  `json:"dts,omitempty"` // device tree source beside board.json; empty: the kernel's own
	QEMU    *QEMU   `json:"qemu,omitempty"`
	Image   []Step  `json:"image,omitempty"`
	Limits  *Limits `json:"limits,omitempty"`
}

// Arch is the target of the Go compiler.
type Arch struct {
	GOARCH string `json:"goarch"`
	GOMIPS string `json:"gomips,omitempty"`
	GOARM  string `json:"goarm,omitempty"`
}

// Env returns the variables that select the target in a Go build.
func (a Arch) Env() []string {
	env := []string{"GOOS=linux", "CGO_ENABLED=0", "GOARCH=" + a.GOARCH}
	if a.GOMIPS != "" {
		env = append(env, "GOMIPS="+a.GOMIPS)
	}
	if a.GOARM != "" {
		env = append(env, "GOARM="+a.GOARM)
	}
	return env
}

// Ports names the network interfaces by use, as the kernel calls them on this board.
type Ports struct {
	LAN []string `json:"lan"` // members of the LAN bridge
	WAN string   `json:"wan"`
}

// Console is the serial console the router's shell is on.
type Console struct {
	Device string `json:"device"` // below /dev, for example "ttyS0"
	Baud   int    `json:"baud"`
}

// Data says where /data lives: on the disk with this serial number (QEMU boards) or in the
// block device of this name below /dev.
type Data struct {
	Serial string `json:"serial,omitempty"`
	Device string `json:"device,omitempty"`
}

// Quirk is something that a boot loader or a perfect machine would have done: a write to a file of
// the kernel, for example to an I/O port (at its offset in /dev/port) or below /sys.
type Quirk struct {
	File   string `json:"file"`
	Offset int64  `json:"offset,omitempty"`
	Byte   *uint8 `json:"byte,omitempty"` // either this
	Text   string `json:"text,omitempty"` // or this is written
	Why    string `json:"why"`
}

// Bytes is what is written.
func (q Quirk) Bytes() []byte {
	if q.Byte != nil {
		return []byte{*q.Byte}
	}
	return []byte(q.Text)
}

// QEMU is the machine that stands in for the board. Device models are QEMU's names; an empty one
// means that the machine has none.
type QEMU struct {
	Binary   string   `json:"binary"`
	Machine  string   `json:"machine"`
	CPU      string   `json:"cpu,omitempty"`
	NIC      string   `json:"nic"`
	Disk     string   `json:"disk"`
	RNG      string   `json:"rng,omitempty"`
	Watchdog string   `json:"watchdog,omitempty"`
	Args     []string `json:"args,omitempty"`

	// PCI says in which slot each device goes ("lan", "wan", "root", "data", "settings", "rng",
	// "watchdog", "bench": no card is there beside it), for machines whose slots differ: on malta six have an interrupt. The order of
	// the slots is the order in which the kernel names NICs and disks. Without it QEMU chooses.
	PCI map[string]string `json:"pci,omitempty"`
}

// Step is one step of an image recipe. Do names the step, From the file it starts from (one that
// an earlier step made, or "kernel", "rootfs"), To the file it makes, With its parameters.
type Step struct {
	Do   string            `json:"do"`
	From string            `json:"from,omitempty"`
	To   string            `json:"to"`
	With map[string]string `json:"with,omitempty"`
}

// Limits are the largest sizes allowed, in bytes; zero means none.
type Limits struct {
	Kernel int64 `json:"kernel,omitempty"`
	RootFS int64 `json:"rootfs,omitempty"`
}

// Parse reads a board.json and reports every problem it has. Unknown fields are problems: a
// misspelt one must not be ignored in silence.
func Parse(data []byte) (*Board, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	b := new(Board)
	if err := dec.Decode(b); err != nil {
		return nil, fmt.Errorf("board.json: %w", err)
	}
	if err := errors.Join(b.Validate()...); err != nil {
		return nil, err
	}
	return b, nil
}

// Load reads board id from a tree that has a folder for each board, and checks that the folder
// and the id agree.
func Load(fsys fs.FS, id string) (*Board, error) {
	data, err := fs.ReadFile(fsys, path.Join(id, "board.json"))
	if err != nil {
		return nil, fmt.Errorf("board %q is not known: %w", id, err)
	}
	b, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("board %s: %w", id, err)
	}
	if b.ID != id {
		return nil, fmt.Errorf("board %s: board.json: id is %q, must be the folder's name", id, b.ID)
	}
	return b, nil
}

// List returns every board below fsys, in order of its id.
func List(fsys fs.FS) ([]*Board, error) {
	files, err := fs.Glob(fsys, "*/board.json")
	if err != nil {
		return nil, err
	}
	var all []*Board
	for _, f := range files {
		b, err := Load(fsys, path.Dir(f))
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// Validate returns every problem, each with the path of its field.
func (b *Board) Validate() []error {
	var bad []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf("board.json: "+format, args...))
		}
	}
	need(b.ID != "" && !strings.ContainsAny(b.ID, " /\\"), "id: %q is not a folder name", b.ID)
	need(b.Name != "", "name: is missing")
	need(b.Arch.GOARCH != "", "arch.goarch: is missing")
	need(b.RAM >= 32, "ram: %d MB, must be 32 or more", b.RAM)
	need(len(b.Ports.LAN) > 0, "ports.lan: is empty, the LAN needs a port")
	need(b.Ports.WAN != "", "ports.wan: is missing")
	for i, p := range b.Ports.LAN {
		need(p != "" && p != b.Ports.WAN, "ports.lan[%d]: %q is empty or the WAN port", i, p)
	}
	need(b.MAC == "nic", "mac: %q, must be \"nic\"", b.MAC)
	need(b.Console.Device != "", "console.device: is missing")
	need(b.Console.Baud > 0, "console.baud: %d, must be above 0", b.Console.Baud)
	need((b.Data.Serial == "") != (b.Data.Device == ""), "data: needs either serial or device")
	for i, q := range b.Quirks {
		need(strings.HasPrefix(q.File, "/"), "quirks[%d].file: %q is not an absolute path", i, q.File)
		need((q.Byte != nil) != (q.Text != ""), "quirks[%d]: needs either byte or text", i)
		need(q.Why != "", "quirks[%d].why: is missing", i)
	}
	need(b.WiFi == "no", "wifi: %q, must be \"no\" until a driver is proven", b.WiFi)
	need(b.Cmdline != "", "cmdline: is missing")
	if q := b.QEMU; q != nil {
		need(q.Binary != "", "qemu.binary: is missing")
		need(q.Machine != "", "qemu.machine: is missing")
		need(q.NIC != "", "qemu.nic: is missing")
		need(q.Disk != "", "qemu.disk: is missing")
	}
	for i, s := range b.Image {
		need(s.Do != "", "image[%d].do: is missing", i)
		need(s.To != "" && !strings.Contains(s.To, "/"), "image[%d].to: %q is not a file name", i, s.To)
	}
	return bad
}

// Router returns the copy that the image carries: without what only the build needs.
func (b *Board) Router() *Board {
	r := *b
	r.Kernel, r.DTS, r.QEMU, r.Image, r.Limits = "", "", nil, nil, nil
	return &r
}
