package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/board"
)

// Options say what to build.
type Options struct {
	Repo     string   // folder of go.mod
	Out      string   // results: Out/BOARD/, and Out/peers/ for the lab
	Boards   []string // ids
	Peers    bool     // also the lab's peers: their kernel and their root
	Settings string   // file with initial settings to bake in; empty: none
	Source   string   // kernel source file or folder; empty: Debian's package
	Jobs     int      // parallel jobs of a kernel build
	Cache    Cache
	Progress *Progress
}

// Build makes everything that is asked for and returns the finished images in order.
func Build(o Options) ([]*Image, error) {
	b := &builder{Options: o, kernels: map[string]string{}, userlands: map[string]*Userland{}}
	if err := b.plan(); err != nil {
		return nil, err
	}
	o.Progress.start(len(b.tasks))
	for _, t := range b.tasks {
		if err := o.Progress.step(t); err != nil {
			return nil, err
		}
	}
	return b.images, nil
}

// peersFlavour is the kernel of the lab's peers.
const peersFlavour = "peers-uml"

type builder struct {
	Options
	tasks     []task
	source    Source
	kernels   map[string]string    // flavour -> result folder
	userlands map[string]*Userland // GOARCH... -> merged binary
	images    []*Image
}

// plan finds out which steps there are, and which of them the cache answers.
func (b *builder) plan() error {
	flavours, err := LoadFlavours(b.Repo)
	if err != nil {
		return err
	}
	if b.source, err = FindSource(b.Cache, b.Source); err != nil {
		return err
	}
	var boards []*board.Board
	var initial []byte
	if b.Settings != "" {
		if initial, err = os.ReadFile(b.Settings); err != nil {
			return err
		}
	}
	for _, id := range b.Boards {
		bd, err := board.Load(os.DirFS(filepath.Join(b.Repo, "board")), id)
		if err != nil {
			return err
		}
		if flavours[bd.Kernel] == nil {
			return fmt.Errorf("board %s: kernel %q is not in board/kernel/flavours.json", id, bd.Kernel)
		}
		boards = append(boards, bd)
	}
	names := []string{}
	for _, bd := range boards {
		names = append(names, bd.Kernel)
	}
	if b.Peers {
		names = append(names, peersFlavour)
	}
	if err := b.planKernels(flavours, names); err != nil {
		return err
	}
	for _, bd := range boards {
		if err := b.planUserland(bd.Arch); err != nil {
			return err
		}
	}
	for _, bd := range boards {
		b.tasks = append(b.tasks, task{"image " + bd.ID, func(log io.Writer) error { return b.image(bd, initial, log) }})
	}
	if b.Peers {
		b.planPeers()
	}
	return nil
}

func (b *builder) planKernels(flavours map[string]*Flavour, names []string) error {
	unpack := false
	var tasks []task
	for _, n := range names {
		if _, planned := b.kernels[n]; planned {
			continue
		}
		f := flavours[n]
		id, err := f.Key(b.Repo, b.source)
		if err != nil {
			return err
		}
		path, have := b.Cache.Path("kernel", id)
		b.kernels[n] = path
		t := task{name: "kernel " + n}
		if !have {
			unpack = true
			t.run = func(log io.Writer) error {
				_, err := f.Build(b.Cache, b.Repo, b.source, b.Jobs, log)
				return err
			}
		}
		tasks = append(tasks, t)
	}
	if unpack && !b.source.dir {
		b.tasks = append(b.tasks, task{"kernel source", func(log io.Writer) error {
			_, err := b.source.unpack(b.Cache, log)
			return err
		}})
	}
	b.tasks = append(b.tasks, tasks...)
	return nil
}

func archName(a board.Arch) string {
	name := a.GOARCH
	if a.GOARM != "" {
		name += "v" + a.GOARM
	}
	return name
}

func (b *builder) planUserland(a board.Arch) error {
	n := archName(a)
	if _, planned := b.userlands[n]; planned {
		return nil
	}
	b.userlands[n] = nil
	id, err := userlandKey(b.Repo, a)
	if err != nil {
		return err
	}
	if _, have := b.Cache.Path("userland", id); have {
		b.userlands[n], err = buildUserland(b.Cache, b.Repo, a, io.Discard)
		b.tasks = append(b.tasks, task{name: "userland " + n})
		return err
	}
	b.tasks = append(b.tasks, task{"userland " + n, func(log io.Writer) (err error) {
		b.userlands[n], err = buildUserland(b.Cache, b.Repo, a, log)
		return err
	}})
	return nil
}

// planPeers links the peers' kernel and root to fixed places below Out, where the tests look.
func (b *builder) planPeers() {
	script := filepath.Join(b.Repo, "scripts/peers-root")
	b.tasks = append(b.tasks, task{"peers root", func(log io.Writer) error {
		dir := filepath.Join(b.Out, "peers")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := install(filepath.Join(b.kernels[peersFlavour], "image"), filepath.Join(dir, "linux"), 0o755); err != nil {
			return err
		}
		c := command(log, b.Repo, nil, script)
		c.Stdout = nil
		out, err := c.Output()
		if err != nil {
			return fmt.Errorf("scripts/peers-root: %w", err)
		}
		root := strings.TrimSpace(string(out))
		if fi, err := os.Stat(root); err != nil || !fi.IsDir() {
			return fmt.Errorf("scripts/peers-root printed %q, which is not a folder", root)
		}
		link := filepath.Join(dir, "root")
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return os.Symlink(root, link)
	}})
}

// image makes one board's files.
func (b *builder) image(bd *board.Board, initial []byte, log io.Writer) error {
	kernel := b.kernels[bd.Kernel]
	version, err := os.ReadFile(filepath.Join(kernel, "version"))
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "culvert-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	v := sourceVersion(b.Repo)
	rootfs, parts, err := BuildRootFS(work, RootFS{
		Repo: b.Repo, Board: bd, Userland: b.userlands[archName(bd.Arch)], Settings: initial,
		Version: v, Kernel: strings.TrimSpace(string(version)),
	}, log)
	if err != nil {
		return err
	}
	img := &Image{Board: bd, Dir: filepath.Join(b.Out, bd.ID), Version: v.Name, Parts: parts}
	if err := os.MkdirAll(img.Dir, 0o755); err != nil {
		return err
	}
	inputs := map[string]string{"kernel": filepath.Join(kernel, "image"), "rootfs": rootfs}
	if err := img.cook(inputs, log); err != nil {
		return err
	}
	b.images = append(b.images, img)
	return nil
}

// Version names the source that an image is made of.
type Version struct {
	Name string    // git describe
	Time time.Time // of the commit: the only time in an image
}

// sourceVersion asks git; a tree without git has no version and the time 0.
func sourceVersion(repo string) Version {
	v := Version{Name: "unversioned", Time: time.Unix(0, 0)}
	if name, err := output(repo, "git", "describe", "--always", "--dirty", "--tags"); err == nil {
		v.Name = name
	}
	stamp := os.Getenv("SOURCE_DATE_EPOCH")
	if stamp == "" {
		stamp, _ = output(repo, "git", "log", "-1", "--format=%ct")
	}
	if sec, err := strconv.ParseInt(stamp, 10, 64); err == nil {
		v.Time = time.Unix(sec, 0)
	}
	return v
}

// RootFS is what one root file system is made of.
type RootFS struct {
	Repo     string
	Board    *board.Board
	Userland *Userland
	Settings []byte // initial settings as JSON; nil: none
	Version  Version
	Kernel   string // kernel version
}

// BuildRootFS writes dir/rootfs.squashfs and says what is in it.
func BuildRootFS(dir string, r RootFS, log io.Writer) (string, []Part, error) {
	seedName := filepath.Join(dir, "seed.ext4")
	if err := makeSeed(seedName, log); err != nil {
		return "", nil, err
	}
	seed, err := os.ReadFile(seedName)
	if err != nil {
		return "", nil, err
	}
	config, err := marshal(r.Board.Router())
	if err != nil {
		return "", nil, err
	}
	files := map[string][]byte{
		"etc/culvert/board.json":      config,
		"etc/culvert/version":         []byte(r.versionText()),
		"usr/share/culvert/data.ext4": seed,
	}
	if r.Settings != nil {
		files["etc/culvert/settings.json"] = r.Settings
	}
	entries, err := rootfsEntries(r.Repo, Content{r.Userland, files})
	if err != nil {
		return "", nil, err
	}
	out := filepath.Join(dir, "rootfs.squashfs")
	if err := writeSquashFS(out, entries, r.Version.Time, log); err != nil {
		return "", nil, err
	}
	parts, err := rootfsParts(out, r.Userland, seed)
	return out, parts, err
}

// versionText: the time is the earliest that the router's clock can be, for boards without one.
func (r RootFS) versionText() string {
	lines := map[string]string{
		"culvert": r.Version.Name, "linux": r.Kernel, "go": strings.TrimPrefix(runtime.Version(), "go"),
		"board": r.Board.ID, "time": strconv.FormatInt(r.Version.Time.Unix(), 10),
	}
	var names []string
	for n := range lines {
		names = append(names, n)
	}
	sort.Strings(names)
	var s strings.Builder
	for _, n := range names {
		fmt.Fprintf(&s, "%s %s\n", n, lines[n])
	}
	return s.String()
}
