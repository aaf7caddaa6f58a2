package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

const (
	seedSize = 4 << 20 // bytes
	// DataSize is the size in bytes of a /data disk that is made for a virtual machine.
	DataSize = 32 << 20
)

const mke2fsConf = `[defaults]
base_features = sparse_super,filetype,resize_inode,dir_index,ext_attr
[fs_types]
small = {
}
ext4 = {
	features = has_journal,extent,flex_bg,metadata_csum,dir_nlink,extra_isize
	inode_size = 256
}
`

// MakeData makes an ext4 file system of size bytes for /data in the file name.
func MakeData(name string, size int64, log io.Writer) error {
	return mke2fs(name, size, "", log)
}

// makeSeed makes the tiny file system that the root carries to remake /data from: it has room to
// grow online to many gigabytes, and the same bytes each time.
func makeSeed(name string, log io.Writer) error {
	return mke2fs(name, seedSize, "63756c76-6572-4400-8000-646174610001", log)
}

// mke2fs: 1 KiB blocks and a 1 MiB journal keep it small; the resize inode lets the kernel grow
// it while mounted. An empty id makes it random.
func mke2fs(name string, size int64, id string, log io.Writer) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = tmp.Truncate(size)
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	blocks := strconv.Itoa(16 << 30 / 1024) // may grow to 16 GiB
	ext := "resize=" + blocks + ",nodiscard,lazy_itable_init=0,lazy_journal_init=0"
	args := []string{"-q", "-F", "-t", "ext4", "-L", "culvert-data", "-b", "1024", "-J", "size=1", "-m", "0",
		"-i", "16384"}
	// The host's own mke2fs.conf must not decide what an image is like.
	conf := tmp.Name() + ".conf"
	if err := os.WriteFile(conf, []byte(mke2fsConf), 0o600); err != nil {
		return err
	}
	defer os.Remove(conf)
	env := []string{"MKE2FS_CONFIG=" + conf}
	if id != "" {
		ext += ",hash_seed=" + id
		args = append(args, "-U", id)
		// Both names: e2fsprogs before 1.47.1 knows only the first.
		env = append(env, "E2FSPROGS_FAKE_TIME=1577836800", "SOURCE_DATE_EPOCH=1577836800")
	}
	args = append(args, "-E", ext, tmp.Name())
	if err := run(log, "", env, "mke2fs", args...); err != nil {
		return fmt.Errorf("make the /data file system: %w", err)
	}
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
