package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Program builds a program that starts a lab with peers by itself, and returns
// its path; it skips the test as New does.
func Program(t T, pkg string) string {
	t.Helper()
	l := newLab(t, Config{Peers: true})
	l.require()
	return l.build(pkg)
}

var built struct {
	sync.Mutex
	dir string
	bin map[string]string
}

// build compiles a program of this module once a test binary.
func (l *Lab) build(pkg string) string {
	l.t.Helper()
	built.Lock()
	defer built.Unlock()
	if p := built.bin[pkg]; p != "" {
		return p
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "culvert-lab")
		l.check(err)
		built.dir, built.bin = dir, map[string]string{}
	}
	p := filepath.Join(built.dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", p, "./"+pkg)
	cmd.Dir = l.top
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	built.bin[pkg] = p
	return p
}

// Cleanup removes what build made; TestMain calls it.
func Cleanup() { os.RemoveAll(built.dir) }
