// Package sysctl reads and writes kernel settings under /proc/sys.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/culvert-fw/culvert/firmware/netstate"
)

// Dir is a mounted /proc/sys. Keys below net are those of the network
// namespace of the calling thread: the kernel looks them up by the caller.
type Dir string

// Default is where /proc/sys is mounted.
const Default Dir = "/proc/sys"

// Observe reads the given keys. A key that this kernel does not have, or an
// optional one that cannot be written here, is left out.
func (d Dir) Observe(want []netstate.Sysctl) ([]netstate.Sysctl, error) {
	var got []netstate.Sysctl
	for _, w := range want {
		name, err := d.file(w.Key)
		if err != nil {
			return nil, err
		}
		fi, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && w.Optional && fi.Mode()&0o200 == 0 {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			if w.Optional || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("read sysctl %s: %w", w.Key, err)
		}
		w.Value, w.Why = strings.Join(strings.Fields(string(b)), " "), ""
		got = append(got, w)
	}
	return got, nil
}

// Do writes one key.
func (d Dir) Do(c netstate.Change) error {
	if c.Op != netstate.SetSysctl {
		return fmt.Errorf("%s: not a sysctl", c.Text())
	}
	name, err := d.file(c.Sysctl.Key)
	if err != nil {
		return err
	}
	// One write without O_TRUNC or O_CREATE: the kernel takes a value at once.
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(c.Sysctl.Value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Text(), err)
	}
	return nil
}

// file is the path of a key; keys have slashes, since interface names may have dots.
func (d Dir) file(key string) (string, error) {
	if path.Clean("/"+key) != "/"+key {
		return "", fmt.Errorf("%q is no sysctl key", key)
	}
	return string(d) + "/" + key, nil
}
