package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/supervise"
)

// makeSeed makes a file system like the one the image carries.
func makeSeed(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-J", "size=1", "-m", "0", "-i", "16384",
		"-O", "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,dir_nlink,extra_isize,metadata_csum,resize_inode",
		"-E", "resize=16777216,nodiscard,lazy_itable_init=0,lazy_journal_init=0", path)
}

// tool runs a program of e2fsprogs, the independent judge of what is on a disk.
func tool(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command("/usr/sbin/"+argv[0], argv[1:]...)    // not on every user's PATH
	cmd.Env = append(os.Environ(), "MKE2FS_CONFIG=/dev/null") // only what is asked for
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func makeFile(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func verdictOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sb, err := readSuper(f)
	if err != nil {
		t.Fatal(err)
	}
	return sb.verdict()
}

func TestSeedBecomesAFileSystem(t *testing.T) {
	dir := t.TempDir()
	seedPath, diskPath := filepath.Join(dir, "seed"), filepath.Join(dir, "disk")
	makeSeed(t, seedPath)
	makeFile(t, diskPath, 8<<20)
	if got := verdictOf(t, diskPath); got != "was blank" {
		t.Errorf("a disk of zeros %q", got)
	}
	disk, err := os.OpenFile(diskPath, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	// A former life that must not shine through where the seed has holes.
	junk := make([]byte, 8<<20)
	for i := range junk {
		junk[i] = byte(rand.N(256))
	}
	if _, err := disk.WriteAt(junk, 0); err != nil {
		t.Fatal(err)
	}
	if got := verdictOf(t, diskPath); got != "held no ext4 file system" {
		t.Errorf("a disk of junk %q", got)
	}
	seed, err := os.Open(seedPath)
	if err != nil {
		t.Fatal(err)
	}
	defer seed.Close()
	if err := writeSeed(disk, seed, 4<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "e2fsck", "-fn", diskPath)
	if got := verdictOf(t, diskPath); got != "" {
		t.Errorf("a seeded disk %q", got)
	}
	sb, err := readSuper(disk)
	if err != nil {
		t.Fatal(err)
	}
	if info, want := tool(t, "dumpe2fs", "-h", diskPath), fmt.Sprintf("Block count:              %d\n", sb.blocks); !strings.Contains(info, want) || sb.blockSize != 1024 || sb.errors {
		t.Errorf("superblock %+v; dumpe2fs says\n%s", sb, info)
	}
	if err := markReset(disk); err != nil {
		t.Fatal(err)
	}
	if got := verdictOf(t, diskPath); got != "factory reset" {
		t.Errorf("a marked disk %q", got)
	}
	if out, err := exec.Command("/usr/sbin/dumpe2fs", "-h", diskPath).CombinedOutput(); err == nil {
		t.Errorf("dumpe2fs still takes a marked disk for ext4:\n%s", out)
	}
}

// failingSeed breaks writeSeed off at its (left+1)-th read.
type failingSeed struct {
	seed *os.File
	left int
}

func (f *failingSeed) ReadAt(b []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, syscall.EIO
	}
	return f.seed.ReadAt(b, off)
}

func TestInterruptedSeedIsNoFileSystem(t *testing.T) {
	dir := t.TempDir()
	seedPath, diskPath := filepath.Join(dir, "seed"), filepath.Join(dir, "disk")
	makeSeed(t, seedPath)
	seed, err := os.Open(seedPath)
	if err != nil {
		t.Fatal(err)
	}
	defer seed.Close()
	for n := range 4 << 20 / copyChunk {
		makeSeed(t, diskPath) // an old file system is there
		disk, err := os.OpenFile(diskPath, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = writeSeed(disk, &failingSeed{seed, n}, 4<<20)
		disk.Close()
		if err == nil {
			t.Fatalf("no error after %d of the reads", n)
		}
		if got := verdictOf(t, diskPath); got == "" {
			t.Fatalf("interrupted after %d chunks, the disk passes for whole", n)
		}
	}
}

func TestSeedTooLarge(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, dir+"/disk", 1<<20)
	disk, err := os.OpenFile(dir+"/disk", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := writeSeed(disk, bytes.NewReader(nil), 4<<20); err == nil || !strings.Contains(err.Error(), "1024 KiB") {
		t.Errorf("error: %v", err)
	}
}

func TestOnlyDamageIsWorthARemake(t *testing.T) {
	for err, want := range map[error]bool{
		nil: false, unix.EINVAL: true, unix.EUCLEAN: true, unix.EBADMSG: true, unix.EIO: true,
		unix.ENODEV: false, unix.ENOMEM: false, unix.EBUSY: false, unix.EPERM: false, unix.EROFS: false,
		fmt.Errorf("wrapped: %w", unix.EUCLEAN): true,
	} {
		if got := damaged(err); got != want {
			t.Errorf("damaged(%v) = %v", err, got)
		}
	}
}

func FuzzParseSuper(f *testing.F) {
	f.Add(make([]byte, 2048))
	for _, logSize := range []byte{0, 6, 7, 63, 255} {
		b := make([]byte, 2048)
		binary.LittleEndian.PutUint16(b[superOffset+56:], ext4Magic)
		b[superOffset+24] = logSize
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= superOffset+superSize {
			if s := parseSuper(b); s.ext4 && (s.blockSize < 1024 || s.blockSize > 65536) {
				t.Errorf("block size %d", s.blockSize)
			}
		}
	})
}

// loopDisk attaches a file to a loop device and returns its minor number.
func loopDisk(t *testing.T, file string) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root (to attach a loop device)")
	}
	out, err := exec.Command("/usr/sbin/losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("missing capability: loop devices: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("/usr/sbin/losetup", "-d", dev).Run() })
	var n int
	if _, err := fmt.Sscanf(dev, "/dev/loop%d", &n); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(b), "\text4\n") {
		t.Skip("missing capability: ext4 in the kernel")
	}
	return n
}

// TestDataDiskThroughItsLife boots again and again with one disk.
func TestDataDiskThroughItsLife(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "disk")
	makeFile(t, file, 24<<20)
	minor := loopDisk(t, file)
	if err := os.MkdirAll(filepath.Join(dir, "usr/share/culvert"), 0o755); err != nil {
		t.Fatal(err)
	}
	makeSeed(t, filepath.Join(dir, "usr/share/culvert/data.ext4"))

	size := int64(24 << 20)
	if !canGrow(t) {
		t.Log("growing is not checked; missing capability: CAP_SYS_RESOURCE")
		size = 4 << 20
	}
	// boot starts the machine and waits for netd, which writes /data/saved when
	// it stops in order.
	boot := func(wantRemade string, wantSaved bool) (*machineInBox, *initctl.Client) {
		t.Helper()
		m := bootInBox(t, dir, fmt.Sprintf("loop=%d", minor), "culvert.test")
		c := m.dial()
		eventually(t, "netd runs", func() bool { return services(t, c)["netd"].State == supervise.Running })
		st, err := c.Status()
		if err != nil {
			t.Fatal(err)
		}
		if d := st.Data; d.Volatile || d.Device != "/dev/data" || d.Size != size || !strings.HasPrefix(d.Remade, wantRemade) || (wantRemade == "") != (d.Remade == "") {
			t.Errorf("data: %+v, want remade %q and %d bytes", d, wantRemade, size)
		}
		if got := m.file("/data/saved") != ""; got != wantSaved {
			t.Errorf("what netd saved is there: %v, want %v", got, wantSaved)
		}
		if seed := m.file("/data/random-seed"); len(seed) != seedSize {
			t.Errorf("the random seed has %d bytes", len(seed))
		}
		return m, c
	}
	reset := func(m *machineInBox, c *initctl.Client) {
		t.Helper()
		if err := c.FactoryReset(); err != nil {
			t.Fatal(err)
		}
		m.wantEnd(unix.SIGHUP)
	}

	m, c := boot("was blank", false)
	seed := m.file("/data/random-seed")
	if err := c.Reboot(); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(unix.SIGHUP)
	tool(t, "e2fsck", "-fn", file) // unmounted in order, grown, and sound

	m, c = boot("", true)
	if m.file("/data/random-seed") == seed {
		t.Error("two boots began with the same random seed")
	}
	reset(m, c)
	m, c = boot("factory reset", false)
	if _, err := c.Call(initctl.Request{Op: initctl.OpPanic}); err == nil {
		t.Error("an answer in spite of the panic")
	}
	m.wantEnd(unix.SIGHUP)
	m, c = boot("", false)
	if st, _ := c.Status(); len(st.Problems) != 1 || !strings.Contains(st.Problems[0], "fault of init itself") {
		t.Errorf("problems after a panic: %q", st.Problems)
	}
	if got := logOf(t, c, initctl.LogInit); !strings.Contains(got, "asked for by a test") {
		t.Errorf("the panic is not in init's log:\n%s", got)
	}
	if err := c.Poweroff(); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(unix.SIGINT)

	breakSuper(t, file)
	boot("was broken, mount says", false)
}

// canGrow tells whether we may grow a mounted ext4.
func canGrow(t *testing.T) bool {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// breakSuper damages the superblock in a way only mount finds.
func breakSuper(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, superOffset+0x20); err != nil { // blocks in a group
		t.Fatal(err)
	}
	if got := verdictOf(t, file); got != "" {
		t.Fatalf("the damage shows already: %s", got)
	}
}
