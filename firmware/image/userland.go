package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/culvert-fw/culvert/board"
)

// commandList is the file that names the commands of the merged binary.
const commandList = "rootfs/commands"

// Userland is the merged binary and the names it answers to.
type Userland struct {
	BB       string   // path of the binary
	Commands []string // sorted
}

// readCommands returns the Go packages to merge, from lines such as "cmd/init" (ours) and
// "core/ls" or "exp/rush" (u-root's).
func readCommands(repo string) ([]string, error) {
	f, err := os.Open(filepath.Join(repo, commandList))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pkgs []string
	for s := bufio.NewScanner(f); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		switch line = strings.TrimSpace(line); {
		case line == "":
		case strings.HasPrefix(line, "cmd/"):
			pkgs = append(pkgs, "./"+line)
		default:
			pkgs = append(pkgs, "github.com/u-root/u-root/cmds/"+line)
		}
	}
	if len(pkgs) == 0 {
		return nil, fmt.Errorf("%s: no command is named", commandList)
	}
	return pkgs, nil
}

// userlandKey covers all Go source of the router, the libraries' versions, the compiler and the
// list of commands.
func userlandKey(repo string, a board.Arch) (string, error) {
	source, err := hashTree(func(p string) bool {
		return strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go") && !hostOnly(repo, p)
	}, filepath.Join(repo, "firmware"), filepath.Join(repo, "cmd"), filepath.Join(repo, "board"))
	if err != nil {
		return "", err
	}
	mods, err := hashTree(func(p string) bool { return true }, filepath.Join(repo, "go.mod"), filepath.Join(repo, "go.sum"), filepath.Join(repo, commandList))
	if err != nil {
		return "", err
	}
	name := a.GOARCH + a.GOMIPS + a.GOARM
	return name + "-" + key{"source": source, "modules": mods, "go": runtime.Version(), "arch": strings.Join(a.Env(), " "), "flags": strings.Join(goFlags, " "), "runtime": timespecRight}.String(), nil
}

// hostOnly says whether a source file is of the build's own programs.
func hostOnly(repo, p string) bool {
	rel, _ := filepath.Rel(repo, filepath.Dir(p))
	switch filepath.ToSlash(rel) {
	case "firmware/image", "cmd/mkimage", "cmd/vmrun":
		return true
	}
	return false
}

// goFlags: no inlining makes the compressed binary a fifth smaller for some per cent of CPU.
// goshsmall leaves out gosh's line editor, which costs more than the rest of it. The u-root
// builder compiles outside of any module, and Go takes that for code of 2022 and gives it the
// timers, panics and TLS of that time; an empty default takes that back.
//
// Package runtime keeps its inlining: without, programs for big-endian MIPS
// corrupt their memory, within seconds under a load of garbage collections (Go 1.26.8; not
// little-endian MIPS, nor with only the other packages compiled so).
var goFlags = []string{
	"-go-extra-args=-gcflags=all=-l",
	"-go-extra-args=-gcflags=runtime=",
	"-go-extra-args=-ldflags=-s -w -buildid= -X=runtime.godebugDefault=",
	"-go-build-tags=goshsmall,netgo,osusergo",
}

// buildUserland merges our commands and u-root's into one binary with u-root's builder.
func buildUserland(c Cache, repo string, a board.Arch, log io.Writer) (*Userland, error) {
	id, err := userlandKey(repo, a)
	if err != nil {
		return nil, err
	}
	dir, err := c.Fill("userland", id, func(dir string) error {
		pkgs, err := readCommands(repo)
		if err != nil {
			return err
		}
		// The builder runs on the host, so it is built before the target is put in the environment.
		builder := filepath.Join(dir, "u-root")
		if err := run(log, repo, nil, "go", "build", "-o", builder, "github.com/u-root/u-root"); err != nil {
			return err
		}
		defer os.Remove(builder)
		packed := filepath.Join(dir, "bb.cpio")
		args := append([]string{"-o", packed, "-base=/dev/null", "-defaultsh=", "-initcmd=", "-tmp-dir", filepath.Join(dir, "tmp")}, goFlags...)
		if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
			return err
		}
		overlay, err := runtimeOverlay(repo, filepath.Join(dir, "tmp"), a)
		if err != nil {
			return err
		}
		args = append(args, overlay...)
		if err := run(log, repo, a.Env(), builder, append(args, pkgs...)...); err != nil {
			return err
		}
		defer os.Remove(packed)
		defer os.RemoveAll(filepath.Join(dir, "tmp"))
		return unpackUserland(packed, dir)
	})
	if err != nil {
		return nil, err
	}
	const keep = 12 // a source change makes a new one; these are megabytes
	c.Prune("userland", keep)
	names, err := os.ReadFile(filepath.Join(dir, "commands"))
	if err != nil {
		return nil, err
	}
	return &Userland{filepath.Join(dir, "bb"), strings.Fields(string(names))}, nil
}

// unpackUserland takes the binary and the command names from u-root's archive; everything else
// about the root file system is in our own manifest.
func unpackUserland(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		return fmt.Errorf("u-root's archive: %w", err)
	}
	var names []string
	found := false
	for _, r := range records {
		name, ok := strings.CutPrefix(r.Name, "bbin/")
		switch {
		case !ok:
		case name == "bb":
			data := make([]byte, r.FileSize)
			if _, err := io.ReadFull(io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize)), data); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "bb"), data, 0o755); err != nil {
				return err
			}
			found = true
		default:
			names = append(names, name)
		}
	}
	if !found {
		return errors.New("u-root's archive has no bbin/bb")
	}
	sort.Strings(names)
	return os.WriteFile(filepath.Join(dir, "commands"), []byte(strings.Join(names, "\n")+"\n"), 0o644)
}

// BuildProgram compiles one program of ours for a board, as the merged binary is compiled.
func BuildProgram(repo string, a board.Arch, pkg, out string, log io.Writer) error {
	tmp, err := os.MkdirTemp("", "culvert-program-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	overlay, err := runtimeOverlay(repo, tmp, a)
	if err != nil {
		return err
	}
	args := []string{"build", "-o", out}
	for _, f := range append(goFlags, overlay...) {
		if extra, ok := strings.CutPrefix(f, "-go-extra-args="); ok {
			args = append(args, extra)
		}
	}
	return run(log, repo, append(a.Env(), "CGO_ENABLED=0", "GOOS=linux"), "go", append(args, pkg)...)
}
