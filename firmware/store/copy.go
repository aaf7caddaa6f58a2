package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

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

// saveCopy renews the last good copy. The change itself is safe in the
// database already, so a failure is only logged: the older copy stays, and the
// next start tries again. s.mu is held.
func (s *Store) saveCopy() {
	body := copyBody{Rev: s.confirmed, Kept: map[string][]byte{}}
	if s.confirmed.N != 0 {
		body.Settings = s.settings.Compact()
	}
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

func writeCopy(path string, body copyBody) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	b, err = json.Marshal(copyFile{CRC32: fmt.Sprintf("%08x", crc32.ChecksumIEEE(b)), Body: b})
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}

// writeFile replaces path, so that it is whole before and after a power cut.
func writeFile(path string, b []byte) (err error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
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
