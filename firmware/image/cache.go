// Package image builds what a board boots: kernels from flavours, the merged userland, the root
// file system and the image files its recipe asks for. It runs on the build host and knows
// nothing of a particular machine: that is data in board.json and board/kernel/flavours.json.
package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// Cache is a folder of build results, each in a folder of its own named by the content of all
// that went in. It is safe to delete at any time.
type Cache struct{ Dir string }

// DefaultCache returns ${XDG_CACHE_HOME:-$HOME/.cache}/culvert.
func DefaultCache() (Cache, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return Cache{}, fmt.Errorf("no place for the build cache (set HOME or XDG_CACHE_HOME): %w", err)
	}
	return Cache{filepath.Join(dir, "culvert")}, nil
}

// Path returns where the result of this kind and key is or will be, and whether it is there.
func (c Cache) Path(kind, key string) (path string, have bool) {
	path = filepath.Join(c.Dir, kind, key)
	_, err := os.Stat(path)
	return path, err == nil
}

// Fill makes the result by calling build with an empty folder, which takes its final name only
// when build has succeeded: an interrupted build leaves nothing that looks like a result.
func (c Cache) Fill(kind, key string, build func(dir string) error) (string, error) {
	path, have := c.Path(kind, key)
	if have {
		return path, nil
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(parent, ".lock-"+key))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, have := c.Path(kind, key); have {
		return path, nil // another build made it while this one waited
	}
	tmp, err := os.MkdirTemp(parent, ".tmp-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := build(tmp); err != nil {
		return "", err
	}
	return path, os.Rename(tmp, path)
}

// lock waits until no other build holds the named file.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	// The file stays: removing it would let a third build lock a new one beside a waiting second.
	return func() { f.Close() }, nil
}

// Prune removes all results of a kind but the newest keep ones.
func (c Cache) Prune(kind string, keep int) {
	dir := filepath.Join(c.Dir, kind)
	all, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	type result struct {
		name string
		when int64
	}
	var have []result
	for _, d := range all {
		if fi, err := d.Info(); err == nil && d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			have = append(have, result{d.Name(), fi.ModTime().UnixNano()})
		}
	}
	sort.Slice(have, func(i, j int) bool { return have[i].when > have[j].when })
	for i, r := range have {
		if i >= keep {
			os.RemoveAll(filepath.Join(dir, r.name))
		}
	}
}

// key hashes named inputs; the same inputs give the same key whatever their order.
type key map[string]string

func (k key) String() string {
	names := make([]string, 0, len(k))
	for n := range k {
		names = append(names, n)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%d %s %d %s\n", len(n), n, len(k[n]), k[n])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashTree hashes the names and contents of the files below the roots that want accepts.
func hashTree(want func(path string) bool, roots ...string) (string, error) {
	h := sha256.New()
	for _, root := range roots {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !d.Type().IsRegular() || !want(p) {
				return err
			}
			sum, err := hashFile(p)
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, p)
			fmt.Fprintf(h, "%s %s\n", filepath.ToSlash(rel), sum)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashStamps hashes names, sizes and times: for source trees too big to read at every build.
func hashStamps(root string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d %d\n", p, fi.Size(), fi.ModTime().UnixNano())
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// install copies a file, replacing the old one at once.
func install(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(filepath.Dir(to), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := io.Copy(tmp, src); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Chmod(tmp.Name(), mode); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), to)
}
