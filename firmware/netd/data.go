package netd

import (
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/dhcp4d"
	"github.com/culvert-fw/culvert/firmware/reconcile/confirm"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/firmware/store"
)

// Keys of what is kept beside the settings.
var (
	keyHostKey  = []byte("ssh-host-key")
	keyClaim    = []byte("claim")
	keyWANLease = []byte("wan-lease")
	keyLANMoved = []byte("lan-moved")
	keyByHand   = []byte("lan-by-hand")
	keyTime     = []byte("time")
	keyConfirms = []byte("confirmed-by")
)

// openStore opens the database, makes what a fresh router lacks and takes the
// initial settings.
func (d *daemon) openStore() error {
	s, recovery, err := store.Open(filepath.Join(d.files.data, databaseFile), store.Options{Log: d.log})
	if err != nil {
		return err
	}
	d.store, d.kept, d.state, d.leases = s, s.Bucket(store.Kept), s.Bucket("state"), s.Bucket("leases")
	if recovery.Text != "" {
		d.note(recovery.Text)
	}
	if err := d.initialSettings(); err != nil {
		d.note(sentence(err.Error()))
	}
	if b, err := d.state.Get(keyLANMoved); err == nil && b != nil {
		d.facts.LANMoved, _ = netip.ParsePrefix(string(b))
	}
	if b, err := d.state.Get(keyByHand); err == nil {
		d.byHand = b != nil
	}
	return nil
}

// readHostKey gives the SSH host key, and makes it on the first boot. It is
// called once, when the LAN is up: making one takes a slow CPU a while.
func (d *daemon) readHostKey() []byte {
	if b, err := d.kept.Get(keyHostKey); err == nil && b != nil {
		return b
	}
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		d.note("There is no SSH host key: " + sentence(err.Error()))
		return nil
	}
	block, err := ssh.MarshalPrivateKey(priv, "culvert")
	if err != nil {
		d.note("There is no SSH host key: " + sentence(err.Error()))
		return nil
	}
	key := pem.EncodeToMemory(block)
	if err := d.kept.Put(keyHostKey, key); err != nil {
		d.note("The SSH host key can't be kept: " + err.Error() + ". It will be another one after the next boot.")
	}
	return key
}

// initialSettings imports the settings that init found on their disk or in the
// image, only while the router has no confirmed revision.
func (d *daemon) initialSettings() error {
	if d.store.HasConfirmed() {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(d.files.run, initialFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("initial settings: %w", err)
	}
	s, problems := settings.Parse(b)
	if len(problems) == 0 {
		problems = s.Validate()
	}
	if len(problems) > 0 {
		return fmt.Errorf("the initial settings can't be used, the router starts with its defaults: %w", problems)
	}
	author := api.Author{Via: "initial settings"}
	if _, err := d.store.Commit(s, d.meta(author, "initial settings")); err != nil {
		return fmt.Errorf("initial settings: %w", err)
	}
	if !claimed(s) {
		return nil
	}
	return d.keepClaim(&api.Claim{Time: time.Now(), Author: author, With: "initial settings"})
}

// confirmed is the revision that a boot starts.
func (d *daemon) confirmed() confirm.Revision {
	r, s := d.store.Confirmed()
	return confirm.Revision{N: r.N, Settings: s}
}

// meta describes a commit for the history.
func (d *daemon) meta(a api.Author, message string) store.Meta {
	a.Conn = nil // of no use later
	b, err := json.Marshal(a)
	if err != nil {
		d.log.Error("author of a commit", "err", err)
	}
	return store.Meta{Author: b, Message: message}
}

// confirmers are who confirmed commits that waited for it, by revision.
func (d *daemon) confirmers() map[int]api.Author {
	m := map[int]api.Author{}
	if b, err := d.state.Get(keyConfirms); err != nil || b != nil && json.Unmarshal(b, &m) != nil {
		d.log.Warn("who confirmed commits can't be read", "err", err)
	}
	return m
}

// keepConfirmer keeps who confirmed revision n, as long as the revision.
func (d *daemon) keepConfirmer(n int, a api.Author) error {
	a.Conn = nil // of no use later
	revisions, err := d.store.History()
	if err != nil {
		return err
	}
	m := d.confirmers()
	maps.DeleteFunc(m, func(n int, _ api.Author) bool {
		return !slices.ContainsFunc(revisions, func(r store.Rev) bool { return r.N == n })
	})
	m[n] = a
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return d.state.Put(keyConfirms, b)
}

// revision is one entry of the history, with what it changed.
func (d *daemon) revision(r store.Rev) api.Revision {
	v := api.Revision{N: r.N, Time: r.Time, Message: r.Message, State: r.State, Note: r.Note}
	json.Unmarshal(r.Author, &v.Author) //nolint:errcheck // shown without an author then
	v.Lines, _ = d.store.Changes(r.N)
	if by, ok := d.confirmers()[r.N]; ok && r.State == store.StateConfirmed {
		v.ConfirmedBy, v.Note = &by, "Confirmed by "+who(by)+"."
	}
	return v
}

// revisions is the store as confirm wants it.
type revisions struct{ s *store.Store }

// Begin and Commit get what the Committer has validated.
func (r revisions) Begin(s *settings.Settings, m store.Meta) (int, error) {
	m.Valid = true
	v, err := r.s.Begin(s, m)
	return v.N, err
}

func (r revisions) Commit(s *settings.Settings, m store.Meta) (int, error) {
	m.Valid = true
	v, err := r.s.Commit(s, m)
	return v.N, err
}

func (r revisions) Confirm(n int) error {
	_, err := r.s.Confirm(n)
	return err
}

func (r revisions) Fail(n int) error {
	_, _, err := r.s.Fail(n, "It could not be applied.")
	return err
}

func (r revisions) RollBack(n int) error {
	_, _, err := r.s.RollBack(n, "It was not confirmed in time.")
	if errors.Is(err, store.ErrNotPending) {
		return nil // an older one, marked when the next was begun
	}
	return err
}

// leaseStore keeps the LAN's leases in a bucket, by address.
type leaseStore struct{ kv store.KV }

func (l leaseStore) Load() ([]dhcp4d.Lease, error) {
	var leases []dhcp4d.Lease
	err := l.kv.ForEach(func(_, v []byte) error {
		var lease dhcp4d.Lease
		if json.Unmarshal(v, &lease) == nil {
			leases = append(leases, lease)
		}
		return nil
	})
	return leases, err
}

func (l leaseStore) Save(leases []dhcp4d.Lease) error {
	values := map[string][]byte{}
	for _, lease := range leases {
		b, err := json.Marshal(lease)
		if err != nil {
			return err
		}
		values[lease.Addr.String()] = b
	}
	return l.kv.PutAll(values)
}

func (l leaseStore) Delete(addrs []netip.Addr) error {
	values := map[string][]byte{}
	for _, a := range addrs {
		values[a.String()] = nil
	}
	return l.kv.PutAll(values)
}
