package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// On-disk layout: Documentation/filesystems/ext4/super.rst.
const (
	superOffset = 1024
	superSize   = 1024
	ext4Magic   = 0xEF53
	stateErrors = 0x0002 // s_state: the kernel found errors
	incompat64  = 0x80   // s_feature_incompat: block counts have 64 bits
	headSize    = 64 << 10
	copyChunk   = 64 << 10
)

// resetMarker, at the place of the superblock, asks the next boot to erase the
// disk. It is long enough to cover ext4's magic number at offset 56 of it.
var resetMarker = [64]byte([]byte("culvert: erase this disk at the next boot.                      "))

// superblock is what a data disk's first 64 KiB tell.
type superblock struct {
	ext4      bool
	reset     bool // marked by factory-reset
	blank     bool // nothing but zeros or, as on erased flash, ones
	blockSize int64
	blocks    int64
	errors    bool // the kernel recorded errors in this file system
}

// readSuper reads the superblock of a disk. Only a failing disk is an error.
func readSuper(disk io.ReaderAt) (superblock, error) {
	head := make([]byte, headSize)
	n, err := disk.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return superblock{}, err
	}
	head = head[:n]
	if n < superOffset+superSize {
		return superblock{}, fmt.Errorf("the disk has %d bytes only", n)
	}
	return parseSuper(head), nil
}

// parseSuper judges the first bytes of a disk, at least 2 KiB.
func parseSuper(head []byte) superblock {
	sb := head[superOffset : superOffset+superSize]
	if bytes.HasPrefix(sb, resetMarker[:]) {
		return superblock{reset: true}
	}
	if allOf(head, 0) || allOf(head, 0xff) {
		return superblock{blank: true}
	}
	le := binary.LittleEndian // whatever the CPU is
	logSize := le.Uint32(sb[24:])
	if le.Uint16(sb[56:]) != ext4Magic || logSize > 6 {
		return superblock{}
	}
	s := superblock{
		ext4:      true,
		blockSize: 1024 << logSize,
		blocks:    int64(le.Uint32(sb[4:])),
		errors:    le.Uint16(sb[58:])&stateErrors != 0,
	}
	if le.Uint32(sb[96:])&incompat64 != 0 {
		s.blocks |= int64(le.Uint32(sb[0x150:])) << 32
	}
	return s
}

func allOf(b []byte, v byte) bool {
	for _, x := range b {
		if x != v {
			return false
		}
	}
	return true
}

// diskSize returns the size in bytes of a block device or a file.
func diskSize(f *os.File) (int64, error) { return f.Seek(0, io.SeekEnd) }

// writeSeed makes disk a copy of seed. The first chunk, with the superblock,
// is erased first and written last, each on its own: power that fails in
// between leaves a disk without a file system, which the next boot makes anew.
func writeSeed(disk *os.File, seed io.ReaderAt, seedSize int64) error {
	size, err := diskSize(disk)
	if err != nil {
		return err
	}
	if seedSize > size {
		return fmt.Errorf("the disk has %d KiB, the smallest file system is %d KiB", size>>10, seedSize>>10)
	}
	zero := make([]byte, copyChunk)
	if _, err := disk.WriteAt(zero[:min(copyChunk, seedSize)], 0); err != nil {
		return err
	}
	if err := disk.Sync(); err != nil {
		return err
	}
	zeroed := zeroOut(disk, 0, seedSize)
	buf := make([]byte, copyChunk)
	put := func(off int64) error {
		n, err := seed.ReadAt(buf, off)
		if n == 0 && err != nil {
			return err
		}
		if zeroed && bytes.Equal(buf[:n], zero[:n]) {
			return nil
		}
		_, err = disk.WriteAt(buf[:n], off)
		return err
	}
	for off := int64(copyChunk); off < seedSize; off += copyChunk {
		if err := put(off); err != nil {
			return err
		}
	}
	if err := disk.Sync(); err != nil {
		return err
	}
	if err := put(0); err != nil {
		return err
	}
	return disk.Sync()
}

// zeroOut erases a range of a block device the quickest way it knows, and says
// whether it could.
func zeroOut(disk *os.File, off, n int64) bool {
	span := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span)))
	return errno == 0
}

// markReset makes the next boot erase the disk.
func markReset(disk *os.File) error {
	if _, err := disk.WriteAt(resetMarker[:], superOffset); err != nil {
		return err
	}
	return disk.Sync()
}

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64). The direction bits
// differ between architectures; BLKBSZSET is an _IOW as well and lends them.
const resizeFS = unix.BLKBSZSET&0xe0000000 | 8<<16 | 'f'<<8 | 16

// growMounted grows the ext4 file system mounted at dir to blocks.
func growMounted(dir string, blocks int64) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	n := uint64(blocks)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return errno
	}
	return nil
}
