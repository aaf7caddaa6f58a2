package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/supervise"
)

func (m *machine) seedFile() string { return filepath.Join(m.o.DataDir, "random-seed") }

// mixSeed stirs the seed that the last run left into the kernel's pool, and
// replaces it at once: a crash must not bring the same seed twice. Writing to
// urandom credits nothing, so a seed that came with an image does no harm.
func mixSeed(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(old) > 0 {
		f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(old)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return saveSeed(path, old)
}

// saveSeed stores a seed for the next boot. When the kernel's generator is not
// ready yet, the seed is derived from the old one and the clock: worth no more
// than that, but never the same again.
func saveSeed(path string, old []byte) error {
	seed := make([]byte, seedSize)
	if n, err := unix.Getrandom(seed, unix.GRND_NONBLOCK); err != nil || n != len(seed) {
		if len(old) == 0 {
			return nil // nothing worth keeping yet; the shutdown stores one
		}
		h := sha256.New()
		h.Write(old)
		_ = binary.Write(h, binary.LittleEndian, int64(supervise.Uptime()))
		seed = h.Sum(nil)
	}
	return replaceFile(path, seed)
}

// replaceFile writes a file for root alone, whole or not at all.
func replaceFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, path)
}

// maxSettings bounds initial settings, in bytes.
const maxSettings = 256 << 10

// initialSettings puts the settings of the settings disk, else those baked
// into the image, where netd takes them from if nothing was ever confirmed.
func (m *machine) initialSettings() error {
	src := findDisk(m.o.SysBlock, m.hw.SettingsDisk)
	if src == "" {
		if _, err := os.Stat(m.o.Baked); err != nil {
			return nil
		}
		src = m.o.Baked
	}
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := readSettings(f)
	if err != nil {
		return fmt.Errorf("%s: %w; they are not used", src, err)
	}
	if b == nil {
		return nil
	}
	m.say("initial settings from %s, %d bytes", src, len(b))
	return replaceFile(m.o.Initial, b)
}

// readSettings reads a JSON object that a disk pads with NULs to its sector
// size. A disk of nothing but NULs is no settings: nil.
func readSettings(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSettings+1))
	if err != nil {
		return nil, err
	}
	over := len(b) > maxSettings
	text := b
	if i := bytes.IndexByte(b, 0); i >= 0 {
		text = b[:i]
		if len(bytes.Trim(b[i:], "\x00")) > 0 {
			return nil, errors.New("there is something behind the first NUL byte")
		}
		over = false // a large disk with a small text
	}
	text = bytes.TrimSpace(text)
	switch {
	case over:
		return nil, fmt.Errorf("longer than %d KiB", maxSettings>>10)
	case len(text) == 0:
		return nil, nil
	case text[0] != '{' || !json.Valid(text):
		return nil, errors.New("not a JSON object")
	}
	return text, nil
}
