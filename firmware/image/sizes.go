package image

import (
	"bytes"
	"debug/elf"
	"debug/gosym"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"strings"
	"text/tabwriter"
)

// Part says what one part of a root file system costs, in compressed bytes.
type Part struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// rootfsParts splits a root file system's size. The seed is compressed by itself; what the merged
// binary takes is shared out by the code each group of packages has in it, so those are estimates.
func rootfsParts(rootfs string, u *Userland, seed []byte) ([]Part, error) {
	fi, err := os.Stat(rootfs)
	if err != nil {
		return nil, err
	}
	seedCost, err := compressed(seed)
	if err != nil {
		return nil, err
	}
	const tree = 4096 // tables, inodes and small files
	code, err := codeByGroup(u.BB)
	if err != nil {
		return nil, err
	}
	var total int64
	for _, n := range code {
		total += n
	}
	binary := fi.Size() - seedCost - tree
	var parts []Part
	for name, n := range code {
		parts = append(parts, Part{name, binary * n / max(total, 1)})
	}
	parts = append(parts, Part{"seed of /data", seedCost}, Part{"tree and small files", tree})
	sort.Slice(parts, func(i, j int) bool {
		if parts[i].Bytes != parts[j].Bytes {
			return parts[i].Bytes > parts[j].Bytes
		}
		return parts[i].Name < parts[j].Name
	})
	return parts, nil
}

func compressed(data []byte) (int64, error) {
	c := exec.Command("xz", "-c")
	c.Stdin = bytes.NewReader(data)
	out, err := c.Output()
	if err != nil {
		return 0, fmt.Errorf("xz: %w", err)
	}
	return int64(len(out)), nil
}

// codeByGroup adds up the code of each group of packages in a Go binary, from the function table
// that even a stripped one has.
func codeByGroup(name string) (map[string]int64, error) {
	f, err := elf.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".gopclntab")
	text := f.Section(".text")
	if section == nil || text == nil {
		return map[string]int64{"merged binary": 1}, nil
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return nil, fmt.Errorf("function table of %s: %w", name, err)
	}
	groups := map[string]int64{}
	for _, fn := range table.Funcs {
		groups[group(fn.PackageName())] += int64(fn.End - fn.Entry)
	}
	return groups, nil
}

// group says whose code a package is.
func group(pkg string) string {
	pkg = strings.ReplaceAll(pkg, "%2e", ".")
	const own = "github.com/culvert-fw/culvert/"
	if rest, ok := strings.CutPrefix(pkg, own); ok {
		dirs := strings.SplitN(rest, "/", 3)
		return "ours: " + strings.Join(dirs[:min(2, len(dirs))], "/")
	}
	if rest, ok := strings.CutPrefix(pkg, "github.com/u-root/"); ok {
		if strings.Contains(rest, "/cmds/") {
			return "u-root's commands"
		}
		return "u-root's packages"
	}
	first, _, _ := strings.Cut(pkg, "/")
	if !strings.Contains(first, ".") {
		switch {
		case strings.HasPrefix(pkg, "runtime") || strings.HasPrefix(pkg, "internal/runtime"):
			return "go: runtime"
		case first == "crypto" || strings.HasPrefix(pkg, "vendor/golang.org/x/crypto"):
			return "go: crypto"
		case first == "net" || strings.HasPrefix(pkg, "vendor/"):
			return "go: net"
		}
		return "go: other packages"
	}
	dirs := strings.SplitN(pkg, "/", 4)
	return "lib: " + strings.Join(dirs[:min(3, len(dirs))], "/")
}

// Report writes the sizes for a person. 1 MB is 1,000,000 bytes.
func (img *Image) Report(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n%s\t%s\n", img.Board.ID, img.Dir)
	limit := map[string]int64{}
	if l := img.Board.Limits; l != nil {
		for _, s := range img.Board.Image {
			switch s.From {
			case "kernel":
				limit[s.To] = l.Kernel
			case "rootfs":
				limit[s.To] = l.RootFS
			}
		}
	}
	for _, f := range img.Files {
		fmt.Fprintf(t, "  %s\t%s MB", f.Name, mega(f.Size))
		if l := limit[f.Name]; l > 0 {
			fmt.Fprintf(t, "\tof %s MB (1 MB = 1,000,000 bytes)", mega(l))
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintln(t, "  of the root file system (compressed; shares of the merged binary by code size):")
	var rest int64
	for _, p := range img.Parts {
		if strings.HasPrefix(p.Name, "lib: ") && p.Bytes < 5000 {
			rest += p.Bytes
			continue
		}
		fmt.Fprintf(t, "    %s\t%s MB\n", p.Name, mega(p.Bytes))
	}
	fmt.Fprintf(t, "    all else\t%s MB\n", mega(rest))
	t.Flush()
}

func mega(n int64) string { return fmt.Sprintf("%.3f", float64(n)/1e6) }
