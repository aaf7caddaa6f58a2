package store

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// smallDisk mounts a small file system in a mount namespace of this test's own
// thread, which ends with the test.
func smallDisk(t *testing.T, kind string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	runtime.LockOSThread() // never unlocked: the thread and its mounts go
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		t.Skipf("needs mount namespaces: %v", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		t.Skipf("needs mount namespaces: %v", err)
	}
	dir := t.TempDir()
	if kind == "tmpfs" {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Skipf("needs tmpfs mounts: %v", err)
		}
	} else {
		img := filepath.Join(t.TempDir(), "img")
		if err := os.WriteFile(img, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", img, "2m").CombinedOutput(); err != nil {
			t.Skipf("needs mke2fs: %v %s", err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", img, dir).CombinedOutput(); err != nil {
			t.Skipf("needs loop devices and ext4: %v %s", err, out)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill writes until nothing more fits; the returned function makes room again.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 512)
	for err == nil {
		_, err = f.Write(buf)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling %s: %v", dir, err)
	}
	return func() { os.Remove(name) }
}

func large(n, forwards int) *settings.Settings {
	set := named(n)
	set.LAN.Address = netip.MustParsePrefix("192.168.1.1/24")
	set.Firewall.Forwards = map[string]settings.Forward{}
	for i := range forwards {
		set.Firewall.Forwards[fmt.Sprint("forward-", i)] = settings.Forward{Enabled: true, Protocol: settings.TCP, Port: 1 + i, To: netip.MustParseAddr("192.168.1.9")}
	}
	return set
}

func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) { fullDisk(t, smallDisk(t, kind)) })
	}
}

func fullDisk(t *testing.T, dir string) {
	path := filepath.Join(dir, "culvert.db")
	s, _ := open(t, path)
	commit(t, s, 1)
	free := fillDisk(t, dir)

	// What was preallocated still serves small changes.
	if err := s.Bucket("leases").Put([]byte("a"), []byte("b")); err != nil {
		t.Errorf("a small change on a full disk: %v", err)
	}
	if r, err := s.Begin(named(2), Meta{}); err != nil {
		t.Errorf("a small commit on a full disk: %v", err)
	} else if _, _, err := s.RollBack(r.N, "test"); err != nil {
		t.Error(err)
	}
	// A large one fails, again and again, and nothing changes.
	was, history := inForce(s), states(t, s)
	for range 3 {
		_, err := s.Commit(large(3, 5000), Meta{})
		var full *FullError
		if !errors.As(err, &full) || !strings.HasPrefix(err.Error(), dir+" is full: ") {
			t.Fatalf("a large commit on a full disk: %v", err)
		}
		if inForce(s) != was || states(t, s) != history {
			t.Fatalf("it changed something: %s, %s", inForce(s), states(t, s))
		}
	}
	s.Close()
	s, rec := open(t, path)
	if rec.Damaged || inForce(s) != was {
		t.Errorf("after a reopen: %+v, in force %s", rec, inForce(s))
	}
	// Confirmed on a full disk: the database has it, the copy stays the old one.
	r := begin(t, s, 4)
	if _, err := s.Confirm(r.N); err != nil {
		t.Errorf("confirm on a full disk: %v", err)
	}
	free()
	if _, err := s.Commit(large(5, 500), Meta{}); err != nil {
		t.Errorf("with room again: %v", err)
	}
	was = inForce(s)
	s.Close()
	if s, rec = open(t, path); rec.Damaged || inForce(s) != was {
		t.Errorf("in the end: %+v, in force %s, want %s", rec, inForce(s), was)
	}
	if body, _, err := readCopy(copyPath(path)); err != nil || body.N != s.confirmed.N {
		t.Errorf("the copy has revision %d: %v", body.N, err)
	}
}

// A damaged database on a full disk: the damaged files go, the settings come.
func TestFullDiskAndDamage(t *testing.T) {
	dir := smallDisk(t, "tmpfs")
	db, good := lived(t)
	path := place(t, dir, db[:5*pageSize], good)
	if err := os.WriteFile(path+".damaged-1", make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir)
	s, rec := open(t, path)
	if inForce(s) != "12 router12" || !rec.Damaged || rec.KeptAs != "" {
		t.Errorf("in force %s, %+v", inForce(s), rec)
	}
}

func TestFullDiskAtFirst(t *testing.T) {
	dir := smallDisk(t, "tmpfs")
	fillDisk(t, dir)
	_, _, err := Open(filepath.Join(dir, "culvert.db"), Options{})
	var full *FullError
	if !errors.As(err, &full) {
		t.Errorf("Open: %v", err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "culvert*")); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}
