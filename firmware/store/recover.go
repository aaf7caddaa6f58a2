package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Where the settings came from after a damage.
const (
	FromDatabase = "the damaged database"
	FromCopy     = "last good copy"
	FromDefaults = "defaults with credentials"
)

// Recovery tells what Open had to do.
type Recovery struct {
	Damaged bool   // the database, or the settings in it, could not be used
	KeptAs  string // where the damaged file is kept; "" when it isn't
	From    string // FromDatabase, FromCopy, FromDefaults; "" when nothing was left
	Text    string // sentences for people; "" when all was well
	// RolledBack is the revision that was pending when the router stopped.
	RolledBack int
}

// verify tells what is damaged in a database file, nil when nothing is.
func verify(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		return errors.New("the file is empty")
	}
	p := &pages{r: f, size: fi.Size()}
	return p.check()
}

// replace puts the damaged file f aside and makes a new database of what can
// be had: the file's intact entries, the last good copy, the credentials.
func (s *Store) replace(f *os.File, damage error) (Recovery, error) {
	rec := Recovery{Damaged: true}
	s.log.Error("settings database is damaged", "path", s.path, "damage", damage)
	old, err := os.Open(s.path) // bbolt closes f when it can't use it
	if err != nil {
		return rec, fmt.Errorf("settings database: %w", err)
	}
	defer old.Close()
	defer f.Close() // keeps the lock, where there is one, until the new database is there
	s.db = nil
	keep := salvage(old)
	choose(&rec, &keep, s.path, old)

	kept, err := setAside(s.path)
	if err != nil {
		return rec, fmt.Errorf("the damaged settings database can't be put aside: %w", err)
	}
	rec.KeptAs = kept
	err = s.create(keep)
	var full *FullError
	if errors.As(err, &full) { // the settings matter more than the damaged files
		for _, name := range damagedFiles(s.path) {
			os.Remove(name)
		}
		rec.KeptAs = ""
		err = s.create(keep)
	}
	if err != nil {
		return rec, fmt.Errorf("no new settings database can be made: %w", err)
	}
	rec.Text = rec.sentence("was damaged", keep.confirmed.N)
	return rec, nil
}

// first makes the database of a fresh router, or of one that lost it: then the
// last good copy is still there.
func (s *Store) first() (rec Recovery, err error) {
	var keep salvaged
	choose(&rec, &keep, s.path, strings.NewReader(""))
	if err := s.create(keep); err != nil {
		return rec, err
	}
	if rec.From != "" {
		rec.Damaged = true
		rec.Text = rec.sentence("was missing", keep.confirmed.N)
	}
	return rec, nil
}

// say adds a sentence for people.
func (r *Recovery) say(format string, args ...any) {
	r.Text = strings.TrimSpace(r.Text + " " + fmt.Sprintf(format, args...))
}

func (r *Recovery) sentence(what string, n int) string {
	t := "The settings database " + what + ". "
	switch r.From {
	case FromDatabase:
		t += fmt.Sprintf("The settings (revision %d) could be read from it and are in force.", n)
	case FromCopy:
		t += fmt.Sprintf("The router started on the last good copy of its settings (revision %d).", n)
	case FromDefaults:
		t += "The router started on default settings; the admin's password and keys were kept. Import a backup, or set it up again."
	default:
		t += "No settings and no credentials could be read: the router started as a fresh one, without an owner."
	}
	if r.KeptAs != "" {
		t += " The damaged file is kept as " + r.KeptAs + "."
	}
	return t
}

// damagedFiles are the damaged databases that are kept, oldest first.
func damagedFiles(db string) []string {
	names, _ := filepath.Glob(db + ".damaged-*")
	slices.SortFunc(names, func(a, b string) int { return damagedNumber(a) - damagedNumber(b) })
	return names
}

func damagedNumber(name string) int {
	n, _ := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	return n
}

// setAside renames the damaged database; the last two are kept.
func setAside(db string) (string, error) {
	old := damagedFiles(db)
	n := 1
	if len(old) > 0 {
		n = damagedNumber(old[len(old)-1]) + 1
	}
	for len(old) > 1 {
		os.Remove(old[0])
		old = old[1:]
	}
	name := fmt.Sprintf("%s.damaged-%d", db, n)
	return name, os.Rename(db, name)
}

// create makes a new database, whole or not at all: it gets its name last.
func (s *Store) create(keep salvaged) (err error) {
	tmp := s.path + ".new"
	os.Remove(tmp)
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("settings database: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if err := s.openBolt(tmp, f); err != nil {
		return s.explain(err)
	}
	err = guard(func() error { return s.db.Update(func(tx *bolt.Tx) error { return fill(tx, keep) }) })
	if err == nil {
		preallocate(f)
	}
	if err = errors.Join(err, s.db.Sync(), s.db.Close()); err != nil {
		return s.explain(err)
	}
	s.db = nil
	if err := os.Rename(tmp, s.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}

func fill(tx *bolt.Tx, keep salvaged) error {
	for _, name := range []string{bucketRevisions, bucketPointers} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	for _, e := range keep.entries {
		b, err := tx.CreateBucketIfNotExists([]byte(e.bucket))
		if err != nil {
			return err
		}
		if err := b.Put(e.key, seal(e.bucket, e.key, e.value)); err != nil {
			return err
		}
	}
	if keep.confirmed.N == 0 {
		return nil
	}
	if err := putRecord(tx, &keep.confirmed); err != nil {
		return err
	}
	return setPointer(tx, keyConfirmed, keep.confirmed.N)
}

// afterOpen loads the confirmed revision, takes back what was pending when the
// router stopped, and brings database and copy in line.
func (s *Store) afterOpen(rec *Recovery) error {
	var conf record
	var pending int
	err := s.view(func(tx *bolt.Tx) error {
		n, err := pointer(tx, keyConfirmed)
		if err == nil && n != 0 {
			conf, err = getRecord(tx, n)
		}
		if err != nil {
			return err
		}
		pending, err = pointer(tx, keyPending)
		return err
	})
	if err != nil {
		return err
	}
	if pending != 0 {
		rec.RolledBack = pending
		rec.say("Revision %d was not confirmed before the router restarted and was taken back.", pending)
		if err := s.update(func(tx *bolt.Tx) error { return dropPending(tx, "the router restarted before it was confirmed") }); err != nil {
			s.log.Warn("a pending revision could not be marked as rolled back", "revision", pending, "err", err)
		}
	}
	body, _, copyErr := readCopy(copyPath(s.path))
	set := usable(conf.Settings)
	lost := copyErr == nil && body.N > conf.N && usable(body.Settings) != nil
	if lost || (conf.N != 0 && set == nil) {
		if conf, err = s.restore(rec, conf, lost); err != nil {
			return err
		}
		set = usable(conf.Settings)
	}
	if conf.N == 0 {
		return nil
	}
	s.confirmed, s.settings = conf.Rev, set
	if copyErr != nil || body.N != conf.N {
		s.saveCopy(s.confirmedText())
	}
	return nil
}

// restore replaces a confirmed revision that is older than the copy (the
// database lost a commit) or can't be used by this firmware.
func (s *Store) restore(rec *Recovery, conf record, lost bool) (record, error) {
	rec.Damaged = true
	var keep salvaged
	if lost {
		choose(rec, &keep, s.path, strings.NewReader(""))
		rec.say("The settings database had lost its last commit. Revision %d was restored from the last good copy.", keep.confirmed.N)
	} else {
		admin := credentialsIn(conf.Settings).admin
		keep.confirmed, rec.From = defaultsFor(admin, []entry{{bucketRevisions, revKey(s.last()), nil}}), FromDefaults
		rec.say("The settings (revision %d) can't be used by this firmware. The router started on default settings; the admin's password and keys were kept. Revision %d is still in the history.", conf.N, conf.N)
	}
	keep.confirmed.Time = s.now().UTC()
	err := s.update(func(tx *bolt.Tx) error { return fill(tx, keep) })
	return keep.confirmed, err
}

func (s *Store) last() (n int) {
	_ = s.view(func(tx *bolt.Tx) error { n = lastRev(tx); return nil })
	return n
}
