package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// CopyName is the last good copy, beside the database: the confirmed revision
// with its credentials, and the bucket Kept, as JSON with a checksum. Mode 0600.
const CopyName = "settings.last-good.json"

type copyFile struct {
	CRC32 string          `json:"crc32"` // of body, as it stands in the file
	Body  json.RawMessage `json:"body"`
}

type copyBody struct {
	Rev
	Settings json.RawMessage   `json:"settings,omitempty"` // none on a fresh router
	Kept     map[string][]byte `json:"kept,omitempty"`
}

func copyPath(db string) string { return filepath.Join(filepath.Dir(db), CopyName) }

// saveCopy renews the last good copy; raw are the confirmed settings as
// Compact writes them. The change itself is safe in the database already, so a
// failure is only logged: the older copy stays, and the next start tries again.
// s.mu is held.
func (s *Store) saveCopy(raw []byte) {
	body := copyBody{Rev: s.confirmed, Kept: map[string][]byte{}, Settings: raw}
	err := s.view(func(tx *bolt.Tx) error {
		return forEach(tx, Kept, func(k, v []byte) error {
			body.Kept[string(k)] = append([]byte{}, v...)
			return nil
		})
	})
	if err == nil {
		err = writeCopy(copyPath(s.path), body)
	}
	if err != nil {
		s.log.Warn("the last good copy of the settings could not be renewed", "err", s.explain(err))
	}
}

// confirmedText is what saveCopy wants: nothing on a fresh router.
func (s *Store) confirmedText() []byte {
	if s.confirmed.N == 0 {
		return nil
	}
	return s.settings.Compact()
}

// writeCopy writes a copyFile. The settings are JSON already and many: they are
// put in as they are.
func writeCopy(path string, body copyBody) error {
	head, err := json.Marshal(body.Rev)
	if err != nil {
		return err
	}
	head = head[:len(head)-1]
	tail := []byte{}
	if len(body.Settings) > 0 {
		head = append(head, `,"settings":`...)
	}
	if len(body.Kept) > 0 {
		kept, err := json.Marshal(body.Kept)
		if err != nil {
			return err
		}
		tail = append(append(tail, `,"kept":`...), kept...)
	}
	tail = append(tail, '}')
	sum := crc32.ChecksumIEEE(head)
	sum = crc32.Update(sum, crc32.IEEETable, body.Settings)
	sum = crc32.Update(sum, crc32.IEEETable, tail)
	start := append(fmt.Appendf(nil, `{"crc32":"%08x","body":`, sum), head...)
	return writeFile(path, start, body.Settings, append(tail, "}\n"...))
}

// writeFile replaces path by parts, so that it is whole before and after a power cut:
// which of the two it is then, is all that a power cut decides. The file that
// is replaced stays as the next one's, whose place on the disk is taken already.
func writeFile(path string, parts ...[]byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size := int64(0)
	for _, b := range parts {
		n, werr := f.Write(b)
		size, err = size+int64(n), errors.Join(err, werr)
	}
	if fi, serr := f.Stat(); err == nil && (serr != nil || fi.Size() > size) {
		err = f.Truncate(size)
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
		if err == nil {
			return nil
		}
		// The first copy, or a file system that cannot exchange.
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxCopy bounds what is read of the copy.
const maxCopy = settings.MaxJSON + 1<<20

// readCopy reads the last good copy. raw is its text even when it is damaged.
func readCopy(path string) (body copyBody, raw []byte, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return body, nil, err
	}
	if fi.Size() > maxCopy || !fi.Mode().IsRegular() {
		return body, nil, fmt.Errorf("%s is no copy of settings", path)
	}
	if raw, err = os.ReadFile(path); err != nil {
		return body, nil, err
	}
	var c copyFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return body, raw, err
	}
	if fmt.Sprintf("%08x", crc32.ChecksumIEEE(c.Body)) != c.CRC32 {
		return body, raw, errors.New("wrong checksum")
	}
	err = json.Unmarshal(c.Body, &body)
	return body, raw, err
}
