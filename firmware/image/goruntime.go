package image

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/culvert-fw/culvert/board"
)

// Go 1.26 passes the kernel's 64-bit timespec to futex_time64 on 32-bit MIPS with
// the nanoseconds in front of the padding. On a big-endian CPU the kernel takes the
// other half: every time-out loses its fraction of a second, and the scheduler's
// monitor spins a thousand times a second in each process that waits for a timer.
// (runtime/defs_linux_mipsx.go; the kernel's side is include/uapi/linux/time_types.h.)
const (
	timespecFile  = "src/runtime/defs_linux_mipsx.go"
	timespecWrong = "\ttv_nsec int32\n\t_       [4]byte"
	timespecRight = "\t_       [4]byte\n\ttv_nsec int32"
)

// runtimeOverlay writes into dir what `go build -overlay` needs to compile a
// runtime without that fault, and returns the flag; none where the architecture
// or the compiler does not have it.
func runtimeOverlay(repo, dir string, a board.Arch) ([]string, error) {
	if a.GOARCH != "mips" {
		return nil, nil
	}
	root, err := goroot(repo)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(root, timespecFile)
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if strings.Count(string(source), timespecWrong) != 1 {
		return nil, nil
	}
	patched := filepath.Join(dir, "timespec.go")
	if err := os.WriteFile(patched, []byte(strings.Replace(string(source), timespecWrong, timespecRight, 1)), 0o644); err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {file: patched}})
	if err != nil {
		return nil, err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return []string{"-go-extra-args=-overlay=" + overlay}, os.WriteFile(overlay, list, 0o644)
}

// goroot is the Go installation that `go build` uses.
func goroot(repo string) (string, error) {
	cmd := exec.Command("go", "env", "GOROOT")
	cmd.Dir = repo
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
