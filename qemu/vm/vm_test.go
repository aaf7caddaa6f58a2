package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/board"
)

func TestParseNet(t *testing.T) {
	for _, c := range []struct {
		in   string
		lan  bool
		want Net
	}{
		{"user", true, Net{Kind: User, Port: 2222}},
		{"user:2022", true, Net{Kind: User, Port: 2022}},
		{"user", false, Net{Kind: User}},
		{"tap:lan0", false, Net{Kind: Tap, Name: "lan0"}},
		{"socket:/run/a:b", true, Net{Kind: Socket, Name: "/run/a:b"}},
		{"none", true, Net{Kind: None}},
	} {
		if got, err := ParseNet(c.in, c.lan); err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v", c.in, got, err)
		}
	}
	for _, in := range []string{"", "user:", "user:0", "user:65536", "user:ssh", "tap", "tap:", "socket:", "none:1", "bridge:br0"} {
		if got, err := ParseNet(in, true); err == nil {
			t.Errorf("%q: accepted as %+v", in, got)
		}
	}
	if _, err := ParseNet("user:22", false); err == nil {
		t.Error("a port on the WAN was accepted")
	}
}

func TestParseConsole(t *testing.T) {
	for _, in := range []string{"", "unix", "unix:", "file:", "stdio:1", "pty"} {
		if got, err := ParseConsole(in); err == nil {
			t.Errorf("%q: accepted as %+v", in, got)
		}
	}
	if got, err := ParseConsole("unix:/a"); err != nil || got != (Console{"unix", "/a"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func malta(t *testing.T) *board.Board {
	t.Helper()
	b, err := board.Load(os.DirFS("../../board"), "qemu-mips")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestArgs(t *testing.T) {
	o := Options{
		Board: malta(t), Dir: "/img", Data: "/tmp/a,b.img", Settings: "/tmp/s.img", Mem: 64, QMP: "/q",
		LAN: Net{Kind: User, Port: 2222}, WAN: Net{Kind: Tap, Name: "w0"}, Serial: Console{"unix", "/c"},
	}
	args, err := o.Args()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, "\n")
	for _, want := range []string{
		"hostfwd=tcp:127.0.0.1:2222-192.168.1.1:22",
		"tap,id=wan,script=no,downscript=no,ifname=w0",
		"virtio-net-pci,addr=12,netdev=lan,mac=" + DefaultLANMAC,
		"virtio-net-pci,addr=13,netdev=wan,mac=" + DefaultWANMAC,
		"if=none,format=raw,id=data,file=/tmp/a,,b.img",
		"serial=culvert-root", "serial=culvert-data", "serial=culvert-settings",
		"id=settings,file=/tmp/s.img,readonly=on",
		"-m\n64", "virtio-rng-pci,addr=0b",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
}

func TestArgsRefuseWhatTheBoardHasNot(t *testing.T) {
	b := *malta(t)
	b.SettingsDisk = ""
	o := Options{Board: &b, Settings: "/s", Serial: Console{Kind: "stdio"}}
	if _, err := o.Args(); err == nil || !strings.Contains(err.Error(), "settings_disk") {
		t.Errorf("settings disk: got %v", err)
	}
	b.QEMU = nil
	if _, err := o.Args(); err == nil {
		t.Error("a board without a machine was accepted")
	}
}

func TestPrepareSettingsPadsToSectors(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.json")
	text := `{"a":"` + strings.Repeat("x", 600) + `"}`
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := PrepareSettings(in, dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != 1024 || string(bytes.TrimRight(data, "\x00")) != text {
		t.Errorf("disk has %d bytes: %q", len(data), data)
	}
}

// TestStopLeavesNothingBehind starts a machine that has no system to boot and ends it, by ctx and
// by the death of the program that started it.
func TestStopLeavesNothingBehind(t *testing.T) {
	b := malta(t)
	if _, err := exec.LookPath(b.QEMU.Binary); err != nil {
		t.Skipf("missing capability: the program %s", b.QEMU.Binary)
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "vmrun"), "../../cmd/vmrun")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	img := filepath.Join(dir, "out", b.ID)
	if err := os.MkdirAll(img, 0o755); err != nil {
		t.Fatal(err)
	}
	// A kernel that jumps to itself: QEMU takes any file for malta's kernel only as ELF.
	for name, data := range map[string][]byte{"kernel": loopForever(), "rootfs.squashfs": make([]byte, 4096), "manifest.json": []byte("{}")} {
		if err := os.WriteFile(filepath.Join(img, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		for _, lan := range []string{"none", "socket:" + filepath.Join(dir, "lan")} { // with cables to pull, and without
			t.Run(sig.String()+" lan "+lan[:4], func(t *testing.T) {
				pidFile := filepath.Join(t.TempDir(), "pid")
				ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
				defer cancel()
				c := exec.CommandContext(ctx, filepath.Join(dir, "vmrun"), "-repo", "../..", "-out", filepath.Join(dir, "out"),
					"-lan", lan, "-wan", strings.Replace(lan, "lan", "wan", 1), "-serial", "file:/dev/null", "-pidfile", pidFile)
				c.WaitDelay = 10 * time.Second // what outlives it would keep its output open
				var said bytes.Buffer
				c.Stdout, c.Stderr = &said, &said
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				pid := waitPID(ctx, t, pidFile, &said)
				if err := c.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				err := c.Wait()
				if sig != syscall.SIGKILL && err != nil {
					t.Errorf("vmrun: %v\n%s", err, said.String())
				}
				waitGone(t, pid)
			})
		}
	}
}

func waitPID(ctx context.Context, t *testing.T, name string, said *bytes.Buffer) int {
	t.Helper()
	for ctx.Err() == nil {
		data, _ := os.ReadFile(name)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("QEMU did not start: %s", said.String())
	return 0
}

// waitGone wants a process to end within 10 s, and ends it if it does not.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) || zombie(pid) {
			return
		}
	}
	t.Errorf("QEMU (process %d) is still there", pid)
	syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended now
}

// zombie: where nothing reaps orphans, a dead one stays listed.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// loopForever is a big-endian MIPS ELF program of one branch to itself.
func loopForever() []byte {
	const base = 0x80100000
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	half := func(v uint16) { b.Write([]byte{byte(v >> 8), byte(v)}) }
	word := func(v uint32) { b.Write([]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}) }
	half(2) // executable
	half(8) // MIPS
	word(1)
	word(base) // entry
	word(52)   // program headers
	word(0)
	word(0x50001000) // o32, MIPS32
	half(52)
	half(32)
	half(1)
	half(0)
	half(0)
	half(0)
	for _, v := range []uint32{1, 84, base, base, 8, 8, 5, 4} {
		word(v)
	}
	word(0x1000ffff) // b .
	word(0)
	return b.Bytes()
}

// TestArgsKeepUnpluggedCards: without a cable on one card the other must not take its place.
func TestArgsKeepUnpluggedCards(t *testing.T) {
	plugged := Net{Kind: User}
	for _, c := range []struct {
		name     string
		lan, wan Net
		paused   bool
	}{
		{"both plugged", plugged, plugged, false},
		{"LAN unplugged", Net{Kind: None}, plugged, true},
		{"WAN unplugged", plugged, Net{Kind: None}, true},
	} {
		o := Options{Board: malta(t), Serial: Console{Kind: "stdio"}, LAN: c.lan, WAN: c.wan}
		args, err := o.Args()
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(args, "\n")
		lan, wan := strings.Index(all, "addr=12,netdev=lan,mac="+DefaultLANMAC), strings.Index(all, "addr=13,netdev=wan,mac="+DefaultWANMAC)
		if lan < 0 || wan < lan {
			t.Errorf("%s: not LAN, then WAN:\n%s", c.name, all)
		}
		if paused := slices.Contains(args, "-S"); paused != c.paused {
			t.Errorf("%s: waits for the cables to be pulled: %t", c.name, paused)
		}
	}
}

// TestCountedArgs: nothing outside the machine may be in what a counted run measures.
func TestCountedArgs(t *testing.T) {
	o := Options{Board: malta(t), Dir: "/img", Serial: Console{"file", "/c"}, LAN: Net{Kind: Absent}, WAN: Net{Kind: Absent},
		Data: "/d", Counted: true, Bench: "/b", Line: "/l"}
	args, err := o.Args()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, " ")
	for _, want := range []string{"-icount shift=0,sleep=off", "clock=vm", "file=/b", "path=/l"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in: %s", want, all)
		}
	}
	for _, not := range []string{"-netdev", "virtio-net", "clock=host"} {
		if strings.Contains(all, not) {
			t.Errorf("%q is in: %s", not, all)
		}
	}
}
