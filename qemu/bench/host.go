package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// tools are the programs that what is measured hangs on, and how each says its
// version. One that is not there is left out.
var tools = map[string][]string{
	"go":      {"go", "version"},
	"qemu":    {"qemu-system-mips", "--version"},
	"nft":     {"nft", "--version"},
	"dnsmasq": {"dnsmasq", "--version"},
	"gcc":     {"mips-linux-gnu-gcc", "--version"},
}

// Host fills in what a report says of the machine and of the source tree at root.
func Host(ctx context.Context, root string) (Report, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Report{}, fmt.Errorf("uname: %w", err)
	}
	r := Report{Kernel: unix.ByteSliceToString(uts.Release[:]), CPU: cpu(), Tools: map[string]string{}, Results: []Result{}}
	for name, command := range tools {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output(); err == nil {
			r.Tools[name] = version(string(out))
		}
	}
	// safe.directory: the tree may be another user's, whose sudo this is.
	out, err := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "-C", root, "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*").Output()
	if err != nil {
		out = []byte("unknown") // a tarball
	}
	r.Commit = strings.TrimSpace(string(out))
	return r, nil
}

func cpu() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(b)
	if m == nil {
		return "unknown CPU"
	}
	return string(m[1])
}

// version is the first word of the first line that looks like one.
func version(out string) string {
	first, _, _ := strings.Cut(out, "\n")
	if v := regexp.MustCompile(`\d+\.\d+(\.\d+)*`).FindString(first); v != "" {
		return v
	}
	return first
}
