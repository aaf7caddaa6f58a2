package store

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Kept is the bucket that the last good copy carries too: what must outlive
// even a damaged database, like the SSH host key and the claim record. Keep
// it small; each change of it writes the copy.
const Kept = "kept"

// KV is a named bucket of keys and values that outlive a reboot.
type KV struct {
	s    *Store
	name string
}

// Bucket is the bucket of this name; it comes to be with its first value.
func (s *Store) Bucket(name string) KV { return KV{s, name} }

// Get is a copy of the value of key; nil when there is none.
func (kv KV) Get(key []byte) (value []byte, err error) {
	err = kv.s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(kv.name))
		if b == nil {
			return nil
		}
		v := b.Get(key)
		if v == nil {
			return nil
		}
		data, err := unseal(kv.name, key, v)
		value = append([]byte{}, data...)
		return err
	})
	return value, err
}

// Put stores a value.
func (kv KV) Put(key, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return kv.PutAll(map[string][]byte{string(key): value})
}

// Delete removes a key; one that is not there is no error.
func (kv KV) Delete(key []byte) error { return kv.PutAll(map[string][]byte{string(key): nil}) }

// PutAll stores many values in one write, nil removes a key. All of it happens
// or nothing.
func (kv KV) PutAll(values map[string][]byte) error {
	if kv.name == "" || kv.name == bucketRevisions || kv.name == bucketPointers {
		return fmt.Errorf("bucket %q is not for values", kv.name)
	}
	kv.s.mu.Lock()
	defer kv.s.mu.Unlock()
	err := kv.s.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(kv.name))
		if err != nil {
			return err
		}
		for k, v := range values {
			key := []byte(k)
			if v == nil {
				err = b.Delete(key)
			} else {
				err = b.Put(key, seal(kv.name, key, v))
			}
			if err != nil {
				return fmt.Errorf("bucket %q: %w", kv.name, err)
			}
		}
		return nil
	})
	if err == nil && kv.name == Kept {
		kv.s.saveCopy(kv.s.confirmedText())
	}
	return err
}

// ErrStop ends a ForEach without an error.
var ErrStop = errors.New("stop")

// ForEach calls fn with each key and value in the order of keys. Both are
// valid during the call only, in which the store can't be written.
func (kv KV) ForEach(fn func(key, value []byte) error) error {
	err := kv.s.view(func(tx *bolt.Tx) error { return forEach(tx, kv.name, fn) })
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

func forEach(tx *bolt.Tx, name string, fn func(key, value []byte) error) error {
	b := tx.Bucket([]byte(name))
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		data, err := unseal(name, k, v)
		if err != nil {
			return err
		}
		return fn(k, data)
	})
}
