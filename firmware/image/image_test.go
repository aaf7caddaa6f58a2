package image

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/board"
)

// TestSizesStayWithinLimits looks at the images that `make test` has built before.
func TestSizesStayWithinLimits(t *testing.T) {
	all, err := board.List(os.DirFS("../../board"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		t.Run(b.ID, func(t *testing.T) {
			m, err := ReadManifest(filepath.Join("../../out", b.ID))
			if err != nil {
				t.Skipf("missing capability: an image of %s (make image BOARD=%s)", b.ID, b.ID)
			}
			if b.Limits == nil || b.Limits.Kernel == 0 || b.Limits.RootFS == 0 {
				t.Fatal("the board has no limits")
			}
			if err := CheckLimits(b, m.Files); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckLimitsNamesWhatIsTooBig(t *testing.T) {
	b := &board.Board{ID: "b", Image: []board.Step{{Do: "copy", From: "kernel", To: "k"}, {Do: "copy", From: "rootfs", To: "r"}}, Limits: &board.Limits{Kernel: 10, RootFS: 20}}
	if err := CheckLimits(b, []File{{Name: "k", Size: 10}, {Name: "r", Size: 20}}); err != nil {
		t.Error(err)
	}
	err := CheckLimits(b, []File{{Name: "k", Size: 11}, {Name: "r", Size: 29}})
	if err == nil || !strings.Contains(err.Error(), "k has 11 bytes, 1 more") || !strings.Contains(err.Error(), "r has 29 bytes, 9 more") {
		t.Errorf("got %v", err)
	}
}

// TestTwoBuildsAreIdentical builds userland and root file system from two copies of the source in
// different folders with caches of their own, in CI the compiler's too, and compares every byte.
// The kernel is left out, since it takes minutes: its build has time, user, host and version number
// pinned, and of two builds in different folders only the linker's build id differed, so an image
// is identical as long as the kernel comes from the cache.
func TestTwoBuildsAreIdentical(t *testing.T) {
	needs(t, "mksquashfs", "mke2fs", "xz")
	b, err := board.Load(os.DirFS("../../board"), "qemu-mips")
	if err != nil {
		t.Fatal(err)
	}
	var first, firstBB []byte
	top := t.TempDir()
	dirs := []string{filepath.Join(top, "one"), filepath.Join(top, "a-longer-name/two")}
	copySource(t, "../..", filepath.Join(dirs[0], "source"))
	copySource(t, filepath.Join(dirs[0], "source"), filepath.Join(dirs[1], "source"))
	for i, dir := range dirs {
		repo := filepath.Join(dir, "source")
		if i == 1 && os.Getenv("CI") == "true" {
			t.Setenv("GOCACHE", filepath.Join(dir, "gocache"))
		}
		var log bytes.Buffer
		u, err := buildUserland(Cache{filepath.Join(dir, "cache")}, repo, b.Arch, &log)
		if err != nil {
			t.Fatalf("%v\n%s", err, log.Bytes())
		}
		out, _, err := BuildRootFS(dir, RootFS{
			Repo: repo, Board: b, Userland: u, Version: Version{"v1", time.Unix(1500000000, 0)}, Kernel: "6.12",
		}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		bb, err := os.ReadFile(u.BB)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first, firstBB = data, bb
			continue
		}
		if !bytes.Equal(firstBB, bb) {
			t.Errorf("the merged binaries differ: %d and %d bytes", len(firstBB), len(bb))
		}
		if !bytes.Equal(first, data) {
			t.Errorf("two builds of the same source differ: %d and %d bytes", len(first), len(data))
		}
	}
}

// copySource copies the files that go into a userland.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range []string{"go.mod", "go.sum", "firmware", "cmd", "board", "rootfs", "scripts"} {
		err := filepath.WalkDir(filepath.Join(from, name), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(from, p)
			if err != nil {
				return err
			}
			dst := filepath.Join(to, rel)
			if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
				return err
			}
			return install(p, dst, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
