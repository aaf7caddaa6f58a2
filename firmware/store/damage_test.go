package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// lived is a database that has seen some life, as bytes, and its copy.
func lived(t testing.TB) (db, copy []byte) {
	t.Helper()
	path := dbPath(t)
	s, _ := open(t, path)
	if err := s.Bucket(Kept).Put([]byte("host-key"), []byte("the host key")); err != nil {
		t.Fatal(err)
	}
	leases := map[string][]byte{}
	for i := range 150 {
		leases[fmt.Sprintf("02:00:00:00:00:%02x", i)] = fmt.Appendf(nil, `{"address":"192.168.1.%d"}`, i)
	}
	if err := s.Bucket("leases").PutAll(leases); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 12; i++ {
		commit(t, s, i)
	}
	begin(t, s, 13)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return read(t, path), read(t, copyPath(path))
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// place lays out a database and a copy; nil is no file.
func place(t testing.TB, dir string, db, copy []byte) string {
	t.Helper()
	path := filepath.Join(dir, "culvert.db")
	for name, b := range map[string][]byte{path: db, copyPath(path): copy} {
		os.Remove(name)
		if b == nil {
			continue
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// usableAfter opens what was placed and proves that the store works. It
// returns what was in force at first.
func usableAfter(t testing.TB, path string) (Recovery, string, bool) {
	t.Helper()
	s, rec := open(t, path)
	defer s.Close()
	_, set := s.Confirmed()
	if p := set.Validate(); p != nil {
		t.Errorf("settings in force are invalid: %v", p)
	}
	was, owner := inForce(s), len(set.System.Admin.Keys) == 1
	if rec.Damaged && rec.Text == "" {
		t.Errorf("nothing is said about the damage: %+v", rec)
	}
	r := commit(t, s, 77)
	if err := s.Bucket("leases").Put([]byte("new"), []byte("lease")); err != nil {
		t.Error(err)
	}
	if err := s.Bucket("leases").ForEach(func(_, _ []byte) error { return nil }); err != nil {
		t.Errorf("leases: %v", err)
	}
	if _, err := s.History(); err != nil {
		t.Errorf("history: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s, rec := open(t, path); rec.Damaged || inForce(s) != fmt.Sprintf("%d router77", r.N) {
		t.Errorf("after the repair: %+v, in force %s", rec, inForce(s))
	} else {
		s.Close()
	}
	return rec, was, owner
}

func TestDamageKinds(t *testing.T) {
	db, good := lived(t)
	flip := func(b []byte, at int) []byte {
		c := bytes.Clone(b)
		c[at] ^= 0x10
		return c
	}
	bothMeta := flip(flip(db, 20), pageSize+20)
	tests := []struct {
		name     string
		db, copy []byte
		from     string
		inForce  string
		text     string
	}{
		{"nothing", db, good, "", "12 router12", "Revision 13 was not confirmed before the router restarted and was taken back."},
		{"no database", nil, good, FromCopy, "12 router12", "The settings database was missing. The router started on the last good copy of its settings (revision 12)."},
		{"empty file", []byte{}, good, FromCopy, "12 router12", ""},
		{"zeros", make([]byte, len(db)), good, FromCopy, "12 router12", "The settings database was damaged. The router started on the last good copy of its settings (revision 12). The damaged file is kept as DB.damaged-1."},
		{"garbage", bytes.Repeat([]byte("garbage!"), 4096), good, FromCopy, "12 router12", ""},
		{"both meta pages", bothMeta, good, FromCopy, "12 router12", ""},
		{"both meta pages and no copy", bothMeta, nil, FromDatabase, "12 router12", "The settings database was damaged. The settings (revision 12) could be read from it and are in force. The damaged file is kept as DB.damaged-1."},
		{"an older copy", bothMeta, []byte(`{"crc32":"0"}`), FromDatabase, "12 router12", ""},
		{"a copy that is not what was written", bothMeta, bytes.Replace(good, []byte("router12"), []byte("router99"), 1), FromDatabase, "12 router12", ""},
		{"all checksums and the copy's", spoil(db), spoilCopy(good), FromDefaults, "", "The settings database was damaged. The router started on default settings; the admin's password and keys were kept. Import a backup, or set it up again. The damaged file is kept as DB.damaged-1."},
		{"all checksums and no copy", spoil(db), nil, FromDefaults, "", ""},
		{"nothing left", make([]byte, 9000), nil, "", "0 culvert", "The settings database was damaged. No settings and no credentials could be read: the router started as a fresh one, without an owner. The damaged file is kept as DB.damaged-1."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := place(t, t.TempDir(), tt.db, tt.copy)
			rec, was, owner := usableAfter(t, path)
			if rec.From != tt.from || (tt.inForce != "" && was != tt.inForce) {
				t.Errorf("from %q, in force %s; want %q, %s", rec.From, was, tt.from, tt.inForce)
			}
			if text := strings.ReplaceAll(rec.Text, path, "DB"); tt.text != "" && text != tt.text {
				t.Errorf("it says %q, want %q", text, tt.text)
			}
			if !owner && tt.name != "nothing left" {
				t.Error("the admin's key is gone")
			}
			if rec.KeptAs != "" && !bytes.Equal(read(t, rec.KeptAs), tt.db) {
				t.Error("the damaged file was not kept as it was")
			}
		})
	}
}

// spoil breaks the checksum of every revision and leaves the text.
func spoil(db []byte) []byte { return bytes.ReplaceAll(db, []byte(`{"n":`), []byte(`{"N":`)) }

func spoilCopy(b []byte) []byte {
	return bytes.Replace(b, []byte(`"hostname":"router`), []byte(`"hostname":"Router`), 1)
}

// The host key and the leases survive where they can.
func TestDamageKeepsBuckets(t *testing.T) {
	db, good := lived(t)
	for i := range 2 { // both meta pages
		db[i*pageSize+20] ^= 1
	}
	s, _ := open(t, place(t, t.TempDir(), db, good))
	if v, err := s.Bucket(Kept).Get([]byte("host-key")); string(v) != "the host key" {
		t.Errorf("host key from the copy: %q %v", v, err)
	}
	s, _ = open(t, place(t, t.TempDir(), db, nil))
	if v, err := s.Bucket(Kept).Get([]byte("host-key")); string(v) != "the host key" {
		t.Errorf("host key from the database: %q %v", v, err)
	}

	db, _ = lived(t)
	i := bytes.Index(db, []byte(`"hostname":"router12"`)) // one damaged revision
	db[i+13] ^= 1
	s, rec := open(t, place(t, t.TempDir(), db, good))
	n := 0
	_ = s.Bucket("leases").ForEach(func(_, _ []byte) error { n++; return nil })
	if n != 150 || rec.From != FromCopy {
		t.Errorf("%d of 150 leases, from %q", n, rec.From)
	}
}

// A database that lost its last commit (the newer meta page is damaged, so
// bbolt goes by the older one) must not bring back older settings.
func TestLostCommit(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	commit(t, s, 1)
	before := read(t, path)
	commit(t, s, 2)
	s.Close()
	path = place(t, t.TempDir(), before, read(t, copyPath(path)))
	rec, was, _ := usableAfter(t, path)
	if was != "2 router2" || !rec.Damaged || rec.Text != "The settings database had lost its last commit. Revision 2 was restored from the last good copy." {
		t.Errorf("in force %s, %+v", was, rec)
	}
}

func TestDamagedFilesKept(t *testing.T) {
	db, good := lived(t)
	dir := t.TempDir()
	var path string
	for i := range 4 {
		path = place(t, dir, db[:pageSize*(i+3)], good)
		_, _, _ = usableAfter(t, path)
		good = read(t, copyPath(path))
	}
	got := fmt.Sprint(damagedFiles(path))
	if want := fmt.Sprintf("[%s.damaged-3 %s.damaged-4]", path, path); got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
}

// Settings that this firmware can't use, in an undamaged database.
func TestUnusableSettings(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	commit(t, s, 1)
	s.mu.Lock()
	set := bytes.Replace(s.settings.Compact(), []byte(`"version":1`), []byte(`"version":9`), 1)
	rec := record{s.confirmed, set}
	if err := s.update(func(tx *bolt.Tx) error { return putRecord(tx, &rec) }); err != nil {
		t.Fatal(err)
	}
	s.mu.Unlock()
	s.Close()
	os.Remove(copyPath(path))
	r, was, owner := usableAfter(t, path)
	if !owner || was != "2 culvert" || r.From != FromDefaults || !strings.Contains(r.Text, "can't be used by this firmware") {
		t.Errorf("in force %s, owner %v, %+v", was, owner, r)
	}
}

// Cut short at every 512 bytes.
func TestTruncated(t *testing.T) {
	t.Parallel()
	db, good := lived(t)
	used := len(bytes.TrimRight(db, "\x00"))
	dir := t.TempDir()
	for n := 0; n < used+pageSize && n < len(db); n += 512 {
		_, was, owner := usableAfter(t, place(t, dir, db[:n], good))
		if was != "12 router12" || !owner {
			t.Fatalf("cut to %d bytes: in force %s, owner %v", n, was, owner)
		}
	}
	for n := 0; n < used; n += 512 { // and without a copy: never a panic
		usableAfter(t, place(t, dir, db[:n], nil))
	}
}

// Random damage: with the copy intact nothing is lost; with it damaged too,
// the router still starts.
func TestFlipped(t *testing.T) {
	t.Parallel()
	db, good := lived(t)
	used := len(bytes.TrimRight(db, "\x00"))
	dir := t.TempDir()
	from := map[string]int{}
	seed0 := rand.Uint64()
	for i := range uint64(150) {
		seed := seed0 + i
		r := rand.New(rand.NewPCG(seed, 0))
		bad, badCopy := bytes.Clone(db), bytes.Clone(good)
		for range 1 + r.IntN(20) {
			bad[r.IntN(used)] ^= byte(1 + r.IntN(255))
		}
		if i%5 == 0 { // a garbage page
			for j, at := 0, r.IntN(used/pageSize)*pageSize; j < pageSize; j++ {
				bad[at+j] = byte(r.Uint32())
			}
		}
		rec, was, owner := usableAfter(t, place(t, dir, bad, good))
		from[rec.From]++
		if was != "12 router12" || !owner {
			t.Fatalf("seed %d: in force %s, owner %v, %+v", seed, was, owner, rec)
		}
		for range 1 + r.IntN(3) {
			badCopy[r.IntN(len(badCopy))] ^= byte(1 + r.IntN(255))
		}
		usableAfter(t, place(t, dir, bad, badCopy))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("first seed %d; settings came from %v", seed0, from)
}

// A power cut leaves any part of the pages that a commit wrote before its meta
// page, or all of them and a torn meta page. Each such file must open as
// undamaged, with the old or the new state.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	path := dbPath(t)
	s, _ := open(t, path)
	for i := 1; i <= 8; i++ {
		commit(t, s, i)
	}
	for _, do := range []struct {
		name     string
		fn       func()
		old, new string
	}{
		{"commit", func() { commit(t, s, 9) }, "8 router8", "9 router9"},
		{"begin", func() { begin(t, s, 10) }, "9 router9", "9 router9"},
		{"confirm", func() { _, _ = s.Confirm(10) }, "9 router9", "10 router10"},
	} {
		before, oldCopy := read(t, path), read(t, copyPath(path))
		do.fn()
		after := read(t, path)
		var data []int
		meta := -1
		for p := 0; p < len(after); p += pageSize {
			if p < len(before) && bytes.Equal(before[p:p+pageSize], after[p:p+pageSize]) {
				continue
			}
			if p < 2*pageSize {
				meta = p
			} else {
				data = append(data, p)
			}
		}
		if meta < 0 || len(data) == 0 || len(data) > 8 {
			t.Fatalf("%s wrote meta %d, data %v", do.name, meta, data)
		}
		dir := t.TempDir()
		try := func(state string, file []byte, want string) {
			rec, was, _ := usableAfter(t, place(t, dir, file, oldCopy))
			if rec.Damaged || was != want {
				t.Errorf("%s, %s: in force %s, want %s; %+v", do.name, state, was, want, rec)
			}
		}
		for set := range 1 << len(data) {
			file := append(bytes.Clone(before), make([]byte, max(0, len(after)-len(before)))...)
			for i, p := range data {
				if set&(1<<i) != 0 {
					copy(file[p:p+pageSize], after[p:])
				}
			}
			try(fmt.Sprintf("pages %b", set), file, do.old)
		}
		torn := bytes.Clone(after)
		copy(torn[meta+40:meta+pageSize], before[meta+40:])
		try("torn meta page", torn, do.old)
		try("all written", after, do.new)
	}
}
