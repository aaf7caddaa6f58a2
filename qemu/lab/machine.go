package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/firmware/image"
)

// VMRun adds arguments for vmrun from the next boot on.
func (l *Lab) VMRun(args ...string) { l.extra = append(l.extra, args...) }

// Baked boots an image that brings initial settings along, made by what make
// image SETTINGS=FILE runs, from the next boot on.
func (l *Lab) Baked(content []byte) {
	l.t.Helper()
	file, out := filepath.Join(l.dir, "baked.json"), filepath.Join(l.dir, "baked")
	l.check(os.WriteFile(file, content, 0o600))
	rule := exec.Command("make", "-n", "image", "BOARD="+l.cfg.Board, "SETTINGS="+file)
	rule.Dir = l.top
	text, err := rule.CombinedOutput()
	if want := "mkimage -settings '" + file + "' " + l.cfg.Board; err != nil || !strings.Contains(string(text), want) {
		l.t.Fatalf("make image SETTINGS=FILE does not run %q (%v):\n%s", want, err, text)
	}
	cmd := exec.Command("go", "run", "./cmd/mkimage", "-out", out, "-settings", file, l.cfg.Board)
	cmd.Dir = l.top
	if text, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("mkimage: %v\n%s", err, text)
	}
	l.VMRun("-out", out)
}

// SettingsDisk gives the router initial settings from the next boot on; nil is
// none.
func (l *Lab) SettingsDisk(content []byte) {
	l.t.Helper()
	if l.settingsFile = ""; content == nil {
		return
	}
	l.settingsFile = filepath.Join(l.dir, fmt.Sprintf("settings%d.json", l.boots))
	l.check(os.WriteFile(l.settingsFile, content, 0o600))
}

// DataNew puts another data disk into a router that is off: a file system of
// fs bytes (0: none, the disk is blank) on a disk of size bytes (0: vmrun's
// own).
func (l *Lab) DataNew(fs, size int64) {
	l.t.Helper()
	if err := os.Remove(l.dataFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
	if fs > 0 {
		l.check(image.MakeData(l.dataFile, fs, os.Stderr))
	}
	if size == 0 {
		return
	}
	f, err := os.OpenFile(l.dataFile, os.O_WRONLY|os.O_CREATE, 0o600)
	l.check(err)
	l.check(errors.Join(f.Truncate(size), f.Close()))
}

var (
	blockCount = regexp.MustCompile(`Block count:\s+(\d+)`)
	blockSize  = regexp.MustCompile(`Block size:\s+(\d+)`)
)

// DataCheck wants a sound file system of size bytes on the data disk of a
// router that is off; e2fsprogs judge.
func (l *Lab) DataCheck(size int64) {
	l.t.Helper()
	if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", l.dataFile).CombinedOutput(); err != nil {
		l.t.Errorf("e2fsck: %v\n%s", err, out)
	}
	out := l.debugfs("stats", "-h")
	got := int64(1)
	for _, re := range []*regexp.Regexp{blockCount, blockSize} {
		m := re.FindStringSubmatch(out)
		if m == nil {
			l.t.Fatalf("debugfs shows no %v:\n%s", re, out)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		l.check(err)
		got *= n
	}
	if got != size {
		l.t.Errorf("the file system has %d bytes, want %d", got, size)
	}
}
