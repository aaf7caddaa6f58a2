package image

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestManifestProblemsAreNamed(t *testing.T) {
	for line, want := range map[string]string{
		"dir /x 0755":               "needs 4 fields",
		"pipe /x 0755 0:0":          `"pipe" is not`,
		"dir x 0755 0:0":            "not absolute",
		"dir /x/../y 0755 0:0":      "not absolute and clean",
		"dir /x 0799 0:0":           "not octal",
		"dir /x 0755 root:root":     "not UID:GID",
		"char /dev/null 0666 0:0":   "needs 5 fields",
		"file /etc/x 0644 0:0 a b ": "needs 5 fields",
	} {
		if _, err := readManifest(strings.NewReader(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
}

// needs skips a test where a program of the build is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil && !isFile("/usr/sbin/"+p) {
			t.Skipf("missing capability: the program %s", p)
		}
	}
}

// TestRootFSHasWhatTheManifestSays lets unsquashfs say what mksquashfs made of it.
func TestRootFSHasWhatTheManifestSays(t *testing.T) {
	needs(t, "mksquashfs", "unsquashfs")
	dir := t.TempDir()
	bb := filepath.Join(dir, "bb")
	if err := os.WriteFile(bb, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := rootfsEntries("../..", Content{&Userland{bb, []string{"init", "ls"}}, map[string][]byte{"etc/culvert/version": []byte("v")}})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "r.squashfs")
	if err := writeSquashFS(out, entries, time.Unix(1000000000, 0), os.Stderr); err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("unsquashfs", "-lln", out).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"drwxr-xr-x 0/0 squashfs-root",
		"drwxrwxrwt 0/0 squashfs-root/tmp",
		"-rwxr-xr-x 0/0 squashfs-root/bbin/bb",
		"lrwxrwxrwx 0/0 squashfs-root/bbin/ls -> bb",
		"lrwxrwxrwx 0/0 squashfs-root/init -> bbin/init",
		"crw------- 0/0 squashfs-root/dev/console",
		"-rw-r--r-- 0/0 squashfs-root/etc/culvert/version",
	} {
		f := strings.SplitN(want, " ", 3)
		found := false
		for _, l := range strings.Split(string(list), "\n") {
			found = found || strings.HasPrefix(l, f[0]+" "+f[1]) && strings.HasSuffix(l, " "+f[2])
		}
		if !found {
			t.Errorf("no %q in:\n%s", want, list)
		}
	}
	// The root itself included, which is not in the tar stream.
	for _, l := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		if !strings.Contains(l, "2001-09-") {
			t.Errorf("time is not the one given: %s", l)
		}
	}
}

func TestTwiceTheSamePathIsRefused(t *testing.T) {
	e := entry{kind: "dir", path: "x", mode: 0o755}
	if err := writeTar(new(strings.Builder), []entry{e, e}, time.Unix(0, 0)); err == nil {
		t.Error("no error")
	}
}

func TestSeedIsReproducibleAndSound(t *testing.T) {
	needs(t, "mke2fs", "e2fsck")
	dir := t.TempDir()
	var sums []string
	for _, n := range []string{"a", "b"} {
		name := filepath.Join(dir, n)
		if err := makeSeed(name, os.Stderr); err != nil {
			t.Fatal(err)
		}
		if out, err := command(new(strings.Builder), "", nil, "e2fsck", "-fn", name).CombinedOutput(); err != nil && !strings.Contains(err.Error(), "already set") {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		sum, err := hashFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Error("two seeds differ")
	}
}

func TestCacheKeepsNothingOfAFailedBuild(t *testing.T) {
	c := Cache{t.TempDir()}
	broken := errors.New("broken")
	if _, err := c.Fill("x", "1", func(dir string) error {
		os.WriteFile(filepath.Join(dir, "half"), nil, 0o644)
		return broken
	}); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if _, have := c.Path("x", "1"); have {
		t.Error("a failed build is in the cache")
	}
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "x", ".tmp-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCacheBuildsOnce: two builds at once, as of two terminals, make one result.
func TestCacheBuildsOnce(t *testing.T) {
	c := Cache{t.TempDir()}
	var runs atomic.Int32
	var both sync.WaitGroup
	for range 8 {
		both.Go(func() {
			if _, err := c.Fill("x", "2", func(string) error { runs.Add(1); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if n := runs.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	for _, k := range []string{"3", "4"} {
		if _, err := c.Fill("x", k, func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	c.Prune("x", 2)
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "x", "[^.]*")); len(left) != 2 {
		t.Errorf("after pruning to 2: %v", left)
	}
}
