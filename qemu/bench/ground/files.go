package ground

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/board"
	"github.com/culvert-fw/culvert/firmware/image"
)

// The board that is measured, and its kernel with what measuring needs.
const (
	boardID = "qemu-mips"
	flavour = "malta-be-bench"
)

// Files are what a machine boots from.
type Files struct {
	Board *board.Board
	Dir   string // kernel of the benchmark, rootfs.squashfs of the product
	Disk  string // the benchmark's programs
	Image string // folder of the product's own image
}

// Build makes them below out, with what the cache has.
func Build(repo, out string, log io.Writer) (*Files, error) {
	cache, err := image.DefaultCache()
	if err != nil {
		return nil, err
	}
	if _, err := image.Build(image.Options{
		Repo: repo, Out: filepath.Dir(out), Boards: []string{boardID}, Source: os.Getenv("KERNEL_SRC"), Jobs: runtime.NumCPU(), Cache: cache,
		Progress: &image.Progress{Out: log, LogDir: filepath.Join(out, "log"), Now: time.Now},
	}); err != nil {
		return nil, err
	}
	f := &Files{Dir: filepath.Join(out, "machine"), Image: filepath.Join(filepath.Dir(out), boardID)}
	if f.Board, err = board.Load(os.DirFS(filepath.Join(repo, "board")), boardID); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := kernel(cache, repo, filepath.Join(f.Dir, "kernel"), log); err != nil {
		return nil, err
	}
	if err := link(filepath.Join(f.Image, "rootfs.squashfs"), filepath.Join(f.Dir, "rootfs.squashfs")); err != nil {
		return nil, err
	}
	f.Disk = filepath.Join(f.Dir, "bench.squashfs")
	return f, f.disk(repo, log)
}

func kernel(cache image.Cache, repo, to string, log io.Writer) error {
	all, err := image.LoadFlavours(repo)
	if err != nil {
		return err
	}
	src, err := image.FindSource(cache, os.Getenv("KERNEL_SRC"))
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "  kernel %s (some minutes when the cache has none)\n", flavour)
	dir, err := all[flavour].Build(cache, repo, src, runtime.NumCPU(), io.Discard)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", flavour, err)
	}
	return link(filepath.Join(dir, "image"), to)
}

// disk packs the measuring program and the peers.
func (f *Files) disk(repo string, log io.Writer) error {
	peers, err := exec.Command(filepath.Join(repo, "scripts/bench-peers")).Output()
	if err != nil {
		return fmt.Errorf("scripts/bench-peers: %w", err)
	}
	dir, err := os.MkdirTemp("", "culvert-bench-disk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"proc", "sys", "dev", "tmp", "product", "peers"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "peers"), os.DirFS(strings.TrimSpace(string(peers)))); err != nil {
		return err
	}
	for file, pkg := range map[string]string{"guest": "./qemu/bench/guest", "nameserver": "./qemu/bench/dnsload/server"} {
		if err := image.BuildProgram(repo, f.Board.Arch, pkg, filepath.Join(dir, file), io.Discard); err != nil {
			return fmt.Errorf("the guest's %s: %w", file, err)
		}
	}
	out, err := exec.Command("mksquashfs", dir, f.Disk, "-noappend", "-no-progress", "-quiet", "-all-root", "-comp", "xz").CombinedOutput()
	if err != nil {
		return fmt.Errorf("mksquashfs: %w\n%s", err, out)
	}
	return nil
}

// link makes to a name of file.
func link(file, to string) error {
	if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(file, to)
}
