package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// manifestFile lists what the root file system has.
const manifestFile = "rootfs/manifest"

// entry is one line of the manifest.
type entry struct {
	kind   string // dir file link char block
	path   string
	mode   int64
	uid    int
	gid    int
	source string // file below rootfs/, target of a link, major:minor
	data   []byte // of a file
}

// readManifest parses rootfs/manifest: one entry a line, "KIND PATH MODE UID:GID [SOURCE]".
func readManifest(r io.Reader) ([]entry, error) {
	var all []entry
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		e, err := parseEntry(f)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", manifestFile, n, err)
		}
		all = append(all, e)
	}
	return all, s.Err()
}

func parseEntry(f []string) (entry, error) {
	want := map[string]int{"dir": 4, "file": 5, "link": 5, "char": 5, "block": 5}[f[0]]
	if want == 0 {
		return entry{}, fmt.Errorf("%q is not dir, file, link, char or block", f[0])
	}
	if len(f) != want {
		return entry{}, fmt.Errorf("%s needs %d fields, has %d", f[0], want, len(f))
	}
	e := entry{kind: f[0], path: strings.TrimPrefix(f[1], "/")}
	if !strings.HasPrefix(f[1], "/") || path.Clean(f[1]) != f[1] {
		return entry{}, fmt.Errorf("path %q is not absolute and clean", f[1])
	}
	mode, err := strconv.ParseUint(f[2], 8, 12)
	if err != nil {
		return entry{}, fmt.Errorf("mode %q is not octal", f[2])
	}
	e.mode = int64(mode)
	uid, gid, _ := strings.Cut(f[3], ":")
	if e.uid, err = strconv.Atoi(uid); err == nil {
		e.gid, err = strconv.Atoi(gid)
	}
	if err != nil {
		return entry{}, fmt.Errorf("owner %q is not UID:GID", f[3])
	}
	if want == 5 {
		e.source = f[4]
	}
	return e, nil
}

// writeTar writes the entries in order of their path, with one time for all. mksquashfs reads
// it, so owners and device nodes need no root rights and no staging folder.
func writeTar(w io.Writer, entries []entry, when time.Time) error {
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].path < entries[j].path })
	t := tar.NewWriter(w)
	for i, e := range entries {
		if i > 0 && e.path == entries[i-1].path {
			return fmt.Errorf("%s: /%s is there twice", manifestFile, e.path)
		}
		h := &tar.Header{Name: "./" + e.path, Mode: e.mode, Uid: e.uid, Gid: e.gid, ModTime: when, Format: tar.FormatUSTAR}
		switch e.kind {
		case "dir":
			h.Typeflag = tar.TypeDir
			h.Name = strings.TrimSuffix(h.Name, "/") + "/"
		case "file":
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
		case "link":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.source
		case "char", "block":
			h.Typeflag = tar.TypeChar
			if e.kind == "block" {
				h.Typeflag = tar.TypeBlock
			}
			if _, err := fmt.Sscanf(e.source, "%d:%d", &h.Devmajor, &h.Devminor); err != nil {
				return fmt.Errorf("%s: /%s: device %q is not MAJOR:MINOR", manifestFile, e.path, e.source)
			}
		}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("/%s: %w", e.path, err)
		}
		if _, err := t.Write(e.data); err != nil {
			return err
		}
	}
	return t.Close()
}

// Content is what goes into a root file system beside the files below rootfs/.
type Content struct {
	Userland *Userland
	Files    map[string][]byte // path without the leading slash -> content, mode 0644, root's
}

// rootfsEntries joins the manifest, the merged binary with its links, and the generated files.
func rootfsEntries(repo string, c Content) ([]entry, error) {
	f, err := os.Open(filepath.Join(repo, manifestFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := readManifest(f)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if e.kind != "file" {
			continue
		}
		if entries[i].data, err = os.ReadFile(filepath.Join(repo, "rootfs", e.source)); err != nil {
			return nil, err
		}
	}
	bb, err := os.ReadFile(c.Userland.BB)
	if err != nil {
		return nil, err
	}
	entries = append(entries, entry{kind: "file", path: "bbin/bb", mode: 0o755, data: bb})
	for _, name := range c.Userland.Commands {
		entries = append(entries, entry{kind: "link", path: "bbin/" + name, mode: 0o777, source: "bb"})
	}
	for name, data := range c.Files {
		entries = append(entries, entry{kind: "file", path: name, mode: 0o644, data: data})
	}
	return entries, nil
}

// writeSquashFS packs the entries. The same entries and time give the same bytes.
func writeSquashFS(out string, entries []entry, when time.Time, log io.Writer) error {
	var packed bytes.Buffer
	if err := writeTar(&packed, entries, when); err != nil {
		return err
	}
	stamp := strconv.FormatInt(when.Unix(), 10)
	c := command(log, "", nil, "mksquashfs", "-", out, "-tar", "-noappend", "-no-progress", "-quiet",
		"-comp", "xz", "-b", "1M", "-no-xattrs", "-no-exports", "-reproducible", "-mkfs-time", stamp, "-all-time", stamp, "-root-mode", "755")
	// mksquashfs refuses -mkfs-time beside the variable that says the same.
	c.Env = without(c.Env, "SOURCE_DATE_EPOCH")
	c.Stdin = &packed
	if err := c.Run(); err != nil {
		return fmt.Errorf("mksquashfs: %w", err)
	}
	return nil
}

func without(env []string, name string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, name+"=") {
			kept = append(kept, v)
		}
	}
	return kept
}
