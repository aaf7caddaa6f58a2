package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// PowerOff turns the router off by its shell and waits until QEMU has ended;
// the data disk is clean and can be looked at.
func (l *Lab) PowerOff() {
	l.t.Helper()
	l.Router.Command("poweroff now") // its connection may end before the answer
	select {
	case <-l.Router.Done():
	case <-time.After(60 * time.Second):
		l.t.Fatal("the router does not turn off within 60 s of poweroff")
	}
}

// DataFile is the image of the router's data disk.
func (l *Lab) DataFile() string { return l.dataFile }

// DataRead returns a file of the data disk of a router that is off.
func (l *Lab) DataRead(name string) []byte {
	l.t.Helper()
	out := filepath.Join(l.dir, "from-data")
	os.Remove(out)
	l.debugfs("dump", name, out)
	b, err := os.ReadFile(out)
	l.check(err)
	return b
}

// DataWrite replaces a file of the data disk of a router that is off.
func (l *Lab) DataWrite(name string, content []byte) {
	l.t.Helper()
	in := filepath.Join(l.dir, "to-data")
	l.check(os.WriteFile(in, content, 0o600))
	l.debugfs("rm", name)
	l.debugfs("write", in, name)
	l.debugfs("set_inode_field", name, "mode", "0100600")
}

// DataRemove removes a file of the data disk of a router that is off.
func (l *Lab) DataRemove(name string) {
	l.t.Helper()
	l.debugfs("rm", name)
}

// DataNames lists the data disk of a router that is off.
func (l *Lab) DataNames() []string {
	l.t.Helper()
	var names []string
	for line := range strings.Lines(l.debugfs("ls", "-p", "/")) { // /inode/mode/uid/gid/name/size/
		if f := strings.Split(line, "/"); len(f) > 5 && f[5] != "." && f[5] != ".." {
			names = append(names, f[5])
		}
	}
	return names
}

var freeBlocks = regexp.MustCompile(`Free blocks:\s+(\d+)`)

// DataFill puts a file on the data disk of a router that is off that leaves
// no room.
func (l *Lab) DataFill(name string) {
	l.t.Helper()
	// Once whole, then what the first one left.
	for i := range 3 {
		m := freeBlocks.FindStringSubmatch(l.debugfs("stats"))
		if m == nil {
			l.t.Fatal("debugfs shows no free blocks")
		}
		free, _ := strconv.ParseInt(m[1], 10, 64)
		leave := []int64{64, 8, 0}[i]
		if free <= leave {
			continue
		}
		in := filepath.Join(l.dir, "filler")
		l.check(os.WriteFile(in, make([]byte, 0), 0o600))
		f, err := os.OpenFile(in, os.O_WRONLY, 0)
		l.check(err)
		const block = 1024
		piece := []byte(strings.Repeat("culvert!", block/8))
		for range free - leave {
			_, err := f.Write(piece)
			l.check(err)
		}
		l.check(f.Close())
		l.debugfs("write", in, fmt.Sprintf("%s%d", name, i))
	}
}

func (l *Lab) debugfs(args ...string) string {
	l.t.Helper()
	out, err := exec.Command("/usr/sbin/debugfs", "-w", "-R", strings.Join(args, " "), l.dataFile).CombinedOutput()
	if err != nil {
		l.t.Fatalf("debugfs %v: %v\n%s", args, err, out)
	}
	return string(out)
}
