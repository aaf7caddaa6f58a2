package image

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// kernelSource is where Debian's package linux-source-6.12 puts the source.
const kernelSource = "/usr/src/linux-source-6.12.tar.xz"

// Flavour is a kernel that one or more boards share: board.json names it, and
// board/kernel/flavours.json says how it is made.
type Flavour struct {
	Name      string   `json:"-"`
	Arch      string   `json:"arch"`            // ARCH= of the kernel's make
	Cross     string   `json:"cross,omitempty"` // CROSS_COMPILE=; empty: the host's compiler
	Base      string   `json:"base"`            // allnoconfig or defconfig
	Fragments []string `json:"fragments"`       // files NAME.config beside flavours.json
	Target    string   `json:"target"`          // make target
	Image     string   `json:"image"`           // the file it makes, in the build folder
}

// LoadFlavours reads board/kernel/flavours.json below repo.
func LoadFlavours(repo string) (map[string]*Flavour, error) {
	name := filepath.Join(repo, "board/kernel/flavours.json")
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	all := map[string]*Flavour{}
	if err := dec.Decode(&all); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for n, f := range all {
		f.Name = n
		if f.Arch == "" || f.Target == "" || f.Image == "" || len(f.Fragments) == 0 || (f.Base != "allnoconfig" && f.Base != "defconfig") {
			return nil, fmt.Errorf("%s: %s: needs arch, base (allnoconfig or defconfig), fragments, target and image", name, n)
		}
	}
	return all, nil
}

// Source is a kernel source, packed or unpacked.
type Source struct {
	Path string
	ID   string // changes with the content
	dir  bool
}

// FindSource looks at path, or where linux-source-6.12 is installed when path is empty.
func FindSource(c Cache, path string) (Source, error) {
	if path == "" {
		path = kernelSource
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return Source{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return Source{}, fmt.Errorf("no kernel source: %w\ninstall linux-source-6.12 or set KERNEL_SRC to a 6.12 source archive or folder", err)
	}
	if fi.IsDir() {
		id, err := hashStamps(path)
		return Source{path, id, true}, err
	}
	// Reading 150 MB at every build costs a second, so remember the hash of a file that kept
	// its size and time.
	memo := filepath.Join(c.Dir, "source-id", key{"path": path, "size": strconv.FormatInt(fi.Size(), 10), "time": fi.ModTime().String()}.String())
	if id, err := os.ReadFile(memo); err == nil && len(id) == 64 {
		return Source{path, string(id), false}, nil
	}
	id, err := hashFile(path)
	if err != nil {
		return Source{}, err
	}
	if err := os.MkdirAll(filepath.Dir(memo), 0o755); err != nil {
		return Source{}, err
	}
	return Source{path, id, false}, os.WriteFile(memo, []byte(id), 0o644)
}

// unpack returns the folder with the source, unpacking it into the cache when that is needed.
func (s Source) unpack(c Cache, log io.Writer) (string, error) {
	if s.dir {
		return s.Path, nil
	}
	return c.Fill("src", "linux-"+s.ID[:16], func(dir string) error {
		return run(log, "", nil, "tar", "-C", dir, "--strip-components=1", "-xf", s.Path)
	})
}

// fragment joins the flavour's fragments.
func (f *Flavour) fragment(repo string) ([]byte, error) {
	var all []byte
	for _, n := range f.Fragments {
		data, err := os.ReadFile(filepath.Join(repo, "board/kernel", n+".config"))
		if err != nil {
			return nil, err
		}
		all = append(append(all, data...), '\n')
	}
	return all, nil
}

// buildEnv pins what a kernel build would otherwise take from the clock and the host.
func buildEnv(c Cache) []string {
	env := []string{
		"LC_ALL=C", "KBUILD_BUILD_TIMESTAMP=2020-01-01 00:00:00 UTC", "KBUILD_BUILD_USER=culvert",
		"KBUILD_BUILD_HOST=culvert", "KBUILD_BUILD_VERSION=1", "LOCALVERSION=",
		"CCACHE_DIR=" + filepath.Join(c.Dir, "ccache"),
	}
	const ccache = "/usr/lib/ccache"
	if _, err := os.Stat(ccache); err == nil {
		env = append(env, "PATH="+ccache+":"+os.Getenv("PATH"))
	}
	return env
}

// Key identifies the kernel by everything that goes into it.
func (f *Flavour) Key(repo string, src Source) (string, error) {
	frag, err := f.fragment(repo)
	if err != nil {
		return "", err
	}
	compiler, err := output("", f.Cross+"gcc", "--version")
	if err != nil {
		return "", err
	}
	linker, err := output("", f.Cross+"ld", "--version")
	if err != nil {
		return "", err
	}
	def, _ := json.Marshal(f)
	pinned := strings.Join(buildEnv(Cache{})[:6], "\n")
	return f.Name + "-" + key{"source": src.ID, "fragment": string(frag), "compiler": compiler, "linker": linker, "flavour": string(def), "env": pinned}.String(), nil
}

// Build makes the kernel: the result folder holds image, config and version.
func (f *Flavour) Build(c Cache, repo string, src Source, jobs int, log io.Writer) (string, error) {
	id, err := f.Key(repo, src)
	if err != nil {
		return "", err
	}
	return c.Fill("kernel", id, func(dir string) error {
		tree, err := src.unpack(c, log)
		if err != nil {
			return err
		}
		obj := filepath.Join(c.Dir, "build", id)
		if err := os.MkdirAll(obj, 0o755); err != nil {
			return err
		}
		mk := func(env []string, args ...string) error {
			args = append([]string{"-C", tree, "O=" + obj, "ARCH=" + f.Arch, "CROSS_COMPILE=" + f.Cross}, args...)
			return run(log, "", append(buildEnv(c), env...), "make", args...)
		}
		if err := f.configure(repo, obj, mk); err != nil {
			return err
		}
		if err := mk(nil, "-j"+strconv.Itoa(jobs), f.Target); err != nil {
			return err
		}
		release, err := os.ReadFile(filepath.Join(obj, "include/config/kernel.release"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "version"), release, 0o644); err != nil {
			return err
		}
		if err := install(filepath.Join(obj, ".config"), filepath.Join(dir, "config"), 0o644); err != nil {
			return err
		}
		image := filepath.Join(dir, "image")
		if err := run(log, "", nil, f.Cross+"strip", "-o", image, filepath.Join(obj, f.Image)); err != nil {
			return err
		}
		return os.RemoveAll(obj)
	})
}

// configure makes .config from the fragments and checks that every line survived.
func (f *Flavour) configure(repo, obj string, mk func(env []string, args ...string) error) error {
	frag, err := f.fragment(repo)
	if err != nil {
		return err
	}
	name := filepath.Join(obj, "fragment.config")
	if err := os.WriteFile(name, frag, 0o644); err != nil {
		return err
	}
	config := filepath.Join(obj, ".config")
	if f.Base == "allnoconfig" {
		// With KCONFIG_ALLCONFIG even options that a fragment line makes visible stay off:
		// appending to .config instead would let them take their defaults.
		err = mk([]string{"KCONFIG_ALLCONFIG=" + name}, f.Base)
	} else if err = mk(nil, f.Base); err == nil {
		var base []byte
		if base, err = os.ReadFile(config); err == nil {
			err = os.WriteFile(config, append(base, frag...), 0o644)
		}
	}
	if err != nil {
		return err
	}
	if err := mk(nil, "olddefconfig"); err != nil {
		return err
	}
	got, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	return checkFragment(frag, got)
}

// checkFragment reports every line of a fragment that is not so in config. Kconfig drops lines
// whose dependencies are missing without a word.
func checkFragment(fragment, config []byte) error {
	have := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(config)); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			have[name] = value
		}
	}
	var lost []error
	for s := bufio.NewScanner(bytes.NewReader(fragment)); s.Scan(); {
		line := s.Text()
		name, value, ok := strings.Cut(line, "=")
		if off, isOff := strings.CutSuffix(line, " is not set"); isOff {
			name, value, ok = strings.TrimPrefix(off, "# "), "n", true
		}
		if !ok || !strings.HasPrefix(name, "CONFIG_") {
			continue
		}
		got, on := have[name]
		if !on {
			got = "n"
		}
		if got != value {
			lost = append(lost, fmt.Errorf("  %s: became %s", line, got))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("kernel configuration: these lines of the fragments did not survive (a dependency is missing, or the option is gone):\n%w", errors.Join(lost...))
}
