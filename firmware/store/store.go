// Package store keeps the router's settings and what it must remember over a
// reboot, in one bbolt database. Each commit is a revision; a reboot starts
// the last confirmed one only. A copy of that revision lies beside the
// database, so that a damaged one never costs the admin's settings.
//
// The database is in the byte order of the CPU: it never leaves the router.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// Options of Open; the zero value is usable.
type Options struct {
	Log     *slog.Logger     // default: discarded
	Now     func() time.Time // default: time.Now
	Timeout time.Duration    // to wait for another process that has the database open; default 5 s
}

// Store is an open database. Its methods may be used by several goroutines.
type Store struct {
	db   *bolt.DB
	path string
	log  *slog.Logger
	now  func() time.Time

	mu        sync.Mutex // held while writing; guards what follows
	confirmed Rev        // N 0: none
	settings  *settings.Settings
}

// preallocated is what a new database takes on the disk at once: small changes
// then still work when /data is full.
const preallocated = 256 << 10

func (o *Options) defaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
}

// Open opens the database at path, or makes a new one. A damaged database is
// put aside and replaced; Recovery tells what was done. An error means that
// there can be no database at path at all: another process has it open, the
// disk is missing or broken.
func Open(path string, o Options) (*Store, Recovery, error) {
	o.defaults()
	s := &Store{path: path, log: o.Log, now: o.Now}
	rec, err := s.open(o)
	if err != nil {
		if s.db != nil {
			s.db.Close()
		}
		return nil, rec, err
	}
	if rec.Text != "" {
		s.log.Warn(rec.Text)
	}
	return s, rec, nil
}

func (s *Store) open(o Options) (rec Recovery, err error) {
	f, err := lockFile(s.path, o.Timeout)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if rec, err = s.first(); err != nil {
			return rec, err
		}
	case err != nil:
		return rec, fmt.Errorf("settings database: %w", err)
	default:
		damage := verify(f)
		if damage == nil {
			damage = s.openBolt(s.path, f)
		}
		if damage == nil {
			break
		}
		if rec, err = s.replace(f, damage); err != nil {
			return rec, err
		}
	}
	if s.db == nil {
		if f, err = lockFile(s.path, o.Timeout); err != nil {
			return rec, fmt.Errorf("settings database: %w", err)
		}
		if err := s.openBolt(s.path, f); err != nil {
			return rec, err
		}
	}
	return rec, s.afterOpen(&rec)
}

// lockFile opens path and takes the lock that bbolt takes: the file is checked
// and, when damaged, moved, so nobody else may have it open.
func lockFile(path string, timeout time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(timeout)
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != syscall.EWOULDBLOCK || time.Now().After(deadline) {
			f.Close()
			if err == syscall.EWOULDBLOCK {
				err = fmt.Errorf("%s is in use by another process, waited %s", path, timeout)
			}
			return nil, err
		}
		time.Sleep(20 * time.Millisecond) // flock has no time-out
	}
}

// openBolt hands f, locked and checked, over to bbolt.
func (s *Store) openBolt(path string, f *os.File) error {
	return guard(func() (err error) {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:         time.Second,
			NoFreelistSync:  true, // saves a page a commit; the file is read at every start anyway
			FreelistType:    bolt.FreelistMapType,
			PageSize:        pageSize,
			InitialMmapSize: preallocated,
			MaxSize:         maxFile,
			NoStatistics:    true,
			OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		})
		return err
	})
}

// Close closes the database.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.db.Close()
}

// Path is where the database lies.
func (s *Store) Path() string { return s.path }

// guard turns a panic or memory fault of bbolt into an error: a page that can't
// be read any more faults in the mapped file (SIGBUS).
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the settings database can't be read: %v", p)
		}
	}()
	return fn()
}

func (s *Store) view(fn func(*bolt.Tx) error) error {
	return guard(func() error { return s.db.View(fn) })
}

// update runs one write transaction; all of it happens or nothing. s.mu is held.
func (s *Store) update(fn func(*bolt.Tx) error) error {
	err := guard(func() error { return s.db.Update(fn) })
	if err == nil {
		return nil
	}
	return s.explain(err)
}

// FullError: the disk has no room for a change; the old state stays.
type FullError struct {
	Dir  string // where
	Free int64  // bytes
	Err  error
}

func (e *FullError) Error() string {
	s := fmt.Sprintf("%s is full: %d bytes free. Nothing was changed. Make room, then try again", e.Dir, e.Free)
	if names := damagedFiles(filepath.Join(e.Dir, "*")); len(names) > 0 {
		s += ": these may be deleted: " + strings.Join(names, " ")
	}
	return s
}

func (e *FullError) Unwrap() error { return e.Err }

// explain makes a disk's error one for people.
func (s *Store) explain(err error) error {
	// bbolt wraps some causes with %s.
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || strings.Contains(err.Error(), syscall.ENOSPC.Error())
	dir := filepath.Dir(s.path)
	if full {
		e := &FullError{Dir: dir, Err: err}
		var st syscall.Statfs_t
		if syscall.Statfs(dir, &st) == nil {
			e.Free = int64(st.Bavail) * int64(st.Bsize)
		}
		return e
	}
	if errors.Is(err, bolterrors.ErrMaxSizeReached) {
		return fmt.Errorf("the settings database is at its limit of %d MiB, nothing was changed", maxFile>>20)
	}
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) {
		return fmt.Errorf("%s can't be written, nothing was changed: %w", dir, err)
	}
	return err
}
