package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// States of a revision.
const (
	StateConfirmed  = "confirmed"   // has been in force; the newest one is what a reboot starts
	StatePending    = "pending"     // in force until its time is over, or a reboot
	StateFailed     = "failed"      // could not be applied
	StateRolledBack = "rolled-back" // was not confirmed
)

// Rev is one commit.
type Rev struct {
	N        int             `json:"n"` // from 1; 0 is no revision
	Time     time.Time       `json:"time"`
	Author   json.RawMessage `json:"author,omitempty"` // the caller's own
	Message  string          `json:"message,omitempty"`
	State    string          `json:"state"`
	Note     string          `json:"note,omitempty"`    // why it failed or was rolled back
	Parent   int             `json:"parent,omitempty"`  // the confirmed revision it was made on
	Deadline time.Time       `json:"deadline,omitzero"` // to confirm a pending one by
}

// Meta is what a commit brings beside the settings.
type Meta struct {
	Author   json.RawMessage // JSON, kept as it is, at most 4 KiB
	Message  string          // at most 1 KiB
	Deadline time.Time       // for history only: the caller keeps the time
	Valid    bool            // the settings have been validated
}

// record is a revision as it lies in the database.
type record struct {
	Rev
	Settings json.RawMessage `json:"settings"`
}

const (
	bucketRevisions = "revisions"
	bucketPointers  = "pointers"

	keepRevisions = 50
	pruneAt       = 60 // removed in batches: each costs a page more to write
	// keepBytes bounds the history of a large tree; the confirmed and the
	// pending revision always stay.
	keepBytes = 1 << 20
)

var (
	keyConfirmed = []byte("confirmed")
	keyPending   = []byte("pending")
)

// HasConfirmed tells whether there ever was a confirmed revision: a router
// without one is fresh.
func (s *Store) HasConfirmed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirmed.N != 0
}

// Confirmed is the revision that a reboot starts and that a roll-back leads
// to, and a copy of its settings; revision 0 with the defaults on a fresh router.
func (s *Store) Confirmed() (Rev, *settings.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.confirmed.N == 0 {
		return Rev{}, settings.Default()
	}
	return s.confirmed, s.settings.Clone()
}

// Pending is the revision that waits to be confirmed; false when none does.
func (s *Store) Pending() (Rev, *settings.Settings, bool) {
	var n int
	if err := s.view(func(tx *bolt.Tx) (err error) { n, err = pointer(tx, keyPending); return err }); err != nil || n == 0 {
		return Rev{}, nil, false
	}
	r, set, err := s.Get(n)
	return r, set, err == nil
}

// Begin stores a revision that is pending. Set must not change afterwards. One that was pending before is
// rolled back by it: what Confirmed tells stays the roll-back target.
func (s *Store) Begin(set *settings.Settings, m Meta) (Rev, error) {
	return s.add(set, m, StatePending)
}

// Commit stores a revision that is confirmed at once, in one write. Set must
// not change afterwards.
func (s *Store) Commit(set *settings.Settings, m Meta) (Rev, error) {
	return s.add(set, m, StateConfirmed)
}

func (s *Store) add(set *settings.Settings, m Meta, state string) (Rev, error) {
	if !m.Valid {
		if p := set.Validate(); len(p) > 0 {
			return Rev{}, p
		}
	}
	if len(m.Author) > 4096 || len(m.Message) > 1024 {
		return Rev{}, fmt.Errorf("the commit message is too long: at most 1024 bytes")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := record{Rev: Rev{
		Time: s.now().UTC(), Author: m.Author, Message: m.Message,
		State: state, Parent: s.confirmed.N, Deadline: m.Deadline,
	}, Settings: set.Compact()}
	err := s.update(func(tx *bolt.Tx) error {
		rec.N = lastRev(tx) + 1
		if err := dropPending(tx, fmt.Sprintf("revision %d came before it was confirmed", rec.N)); err != nil {
			return err
		}
		if err := putRecord(tx, &rec); err != nil {
			return err
		}
		key := keyPending
		if state == StateConfirmed {
			key = keyConfirmed
		}
		if err := setPointer(tx, key, rec.N); err != nil {
			return err
		}
		return prune(tx)
	})
	if err != nil {
		return Rev{}, err
	}
	if state == StateConfirmed {
		s.setConfirmed(rec, set)
	}
	return rec.Rev, nil
}

// setConfirmed takes a new confirmed revision over, whose settings are set, and
// renews the last good copy.
func (s *Store) setConfirmed(rec record, set *settings.Settings) {
	s.confirmed, s.settings = rec.Rev, set
	s.saveCopy(rec.Settings)
}

// ErrNotPending: the revision doesn't wait to be confirmed (any more).
var ErrNotPending = errors.New("not waiting to be confirmed")

// Confirm makes the pending revision n the confirmed one.
func (s *Store) Confirm(n int) (Rev, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, err := s.finish(n, StateConfirmed, "")
	if err != nil {
		return Rev{}, err
	}
	set, problems := settings.Parse(rec.Settings)
	if problems != nil {
		return Rev{}, problems
	}
	s.setConfirmed(rec, set)
	return rec.Rev, nil
}

// Fail marks the pending revision n as one that could not be applied; why is
// a sentence. It returns the revision to go back to.
func (s *Store) Fail(n int, why string) (Rev, *settings.Settings, error) {
	return s.giveUp(n, StateFailed, why)
}

// RollBack gives up the pending revision n that was not confirmed; why is a
// sentence. It returns the revision to go back to: the last confirmed one.
func (s *Store) RollBack(n int, why string) (Rev, *settings.Settings, error) {
	return s.giveUp(n, StateRolledBack, why)
}

func (s *Store) giveUp(n int, state, why string) (Rev, *settings.Settings, error) {
	s.mu.Lock()
	_, err := s.finish(n, state, why)
	s.mu.Unlock()
	r, set := s.Confirmed()
	return r, set, err
}

// finish ends the pending state of revision n. s.mu is held.
func (s *Store) finish(n int, state, note string) (rec record, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		p, err := pointer(tx, keyPending)
		if err != nil {
			return err
		}
		if p != n || n == 0 {
			return fmt.Errorf("revision %d is %w", n, ErrNotPending)
		}
		if rec, err = getRecord(tx, n); err != nil {
			return err
		}
		rec.State, rec.Note, rec.Deadline = state, note, time.Time{}
		if err := putRecord(tx, &rec); err != nil {
			return err
		}
		if state == StateConfirmed {
			if err := setPointer(tx, keyConfirmed, n); err != nil {
				return err
			}
		}
		return setPointer(tx, keyPending, 0)
	})
	return rec, err
}

// History is the last revisions, newest first.
func (s *Store) History() ([]Rev, error) {
	var out []Rev
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte(bucketRevisions)).Cursor()
		for k, _ := c.Last(); k != nil && len(out) < keepRevisions; k, _ = c.Prev() {
			rec, err := getRecord(tx, revOf(k))
			if err != nil {
				return err
			}
			out = append(out, rec.Rev)
		}
		return nil
	})
	return out, err
}

// Get is revision n with its settings.
func (s *Store) Get(n int) (Rev, *settings.Settings, error) {
	var rec record
	if err := s.view(func(tx *bolt.Tx) (err error) { rec, err = getRecord(tx, n); return err }); err != nil {
		return Rev{}, nil, err
	}
	set, problems := settings.Parse(rec.Settings)
	if problems != nil {
		return rec.Rev, nil, fmt.Errorf("revision %d can't be used: %w", n, problems)
	}
	return rec.Rev, set, nil
}

// Changes is what revision n changed, as settings.Compare shows it; nothing
// when the revision it was made on is no longer kept.
func (s *Store) Changes(n int) ([]string, error) {
	r, set, err := s.Get(n)
	if err != nil {
		return nil, err
	}
	parent := settings.Default()
	if r.Parent != 0 {
		if _, parent, err = s.Get(r.Parent); err != nil {
			return nil, nil
		}
	}
	return settings.Compare(parent, set), nil
}

func revKey(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func revOf(key []byte) int {
	if len(key) != 4 {
		return 0
	}
	return int(binary.BigEndian.Uint32(key))
}

func lastRev(tx *bolt.Tx) int {
	k, _ := tx.Bucket([]byte(bucketRevisions)).Cursor().Last()
	return revOf(k)
}

func getRecord(tx *bolt.Tx, n int) (rec record, err error) {
	b := tx.Bucket([]byte(bucketRevisions)).Get(revKey(n))
	if b == nil || n <= 0 {
		return rec, fmt.Errorf("there is no revision %d; see: history", n)
	}
	data, err := unseal(bucketRevisions, revKey(n), b)
	if err != nil {
		return rec, err
	}
	err = json.Unmarshal(data, &rec) // copies what it keeps
	return rec, err
}

func putRecord(tx *bolt.Tx, rec *record) error {
	head, err := json.Marshal(rec.Rev)
	if err != nil {
		return err
	}
	// The settings are JSON already: encoding/json would read all of them.
	b := make([]byte, sealSize, sealSize+len(head)+len(rec.Settings)+16)
	b = append(b, head[:len(head)-1]...)
	if len(rec.Settings) > 0 {
		b = append(append(b, `,"settings":`...), rec.Settings...)
	}
	b = append(b, '}')
	sealed(bucketRevisions, revKey(rec.N), b)
	bucket := tx.Bucket([]byte(bucketRevisions))
	bucket.FillPercent = 0.9 // keys only grow
	return bucket.Put(revKey(rec.N), b)
}

// pointer is a revision number, 0 when not set.
func pointer(tx *bolt.Tx, key []byte) (int, error) {
	b := tx.Bucket([]byte(bucketPointers)).Get(key)
	if b == nil {
		return 0, nil
	}
	data, err := unseal(bucketPointers, key, b)
	return revOf(data), err
}

func setPointer(tx *bolt.Tx, key []byte, n int) error {
	b := tx.Bucket([]byte(bucketPointers))
	if n == 0 {
		return b.Delete(key)
	}
	return b.Put(key, seal(bucketPointers, key, revKey(n)))
}

// dropPending marks a pending revision as rolled back.
func dropPending(tx *bolt.Tx, why string) error {
	n, err := pointer(tx, keyPending)
	if err != nil || n == 0 {
		return err
	}
	if rec, err := getRecord(tx, n); err == nil {
		rec.State, rec.Note, rec.Deadline = StateRolledBack, why, time.Time{}
		if err := putRecord(tx, &rec); err != nil {
			return err
		}
	}
	return setPointer(tx, keyPending, 0)
}

// prune removes the oldest revisions.
func prune(tx *bolt.Tx) error {
	confirmed, err := pointer(tx, keyConfirmed)
	if err != nil {
		return err
	}
	bucket := tx.Bucket([]byte(bucketRevisions))
	last := lastRev(tx)
	type old struct{ n, size int }
	var all []old
	total := 0
	c := bucket.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		all = append(all, old{revOf(k), len(v)})
		total += len(v)
	}
	if len(all) <= pruneAt && total <= keepBytes {
		return nil
	}
	left := len(all)
	for _, r := range slices.Clone(all) {
		if left <= keepRevisions && total <= keepBytes/2 {
			break
		}
		if r.n == confirmed || r.n == last {
			continue
		}
		if err := bucket.Delete(revKey(r.n)); err != nil {
			return err
		}
		left--
		total -= r.size
	}
	return nil
}
