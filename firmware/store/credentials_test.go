package store

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// keyNumber is an SSH key that n tells apart, as long as all others.
func keyNumber(t testing.TB, n int) string {
	t.Helper()
	seed := bytes.Repeat([]byte{byte(n)}, ed25519.SeedSize)
	k, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s admin%03d", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))), n)
}

// withKey is a tree whose one credential is key n, and large enough that a
// page holds few revisions.
func withKey(t testing.TB, n int) *settings.Settings {
	s := named(n)
	s.System.Admin.Keys = []string{keyNumber(t, n)}
	return s
}

// rotated is a database, as bytes, whose admin changed keys with each of the
// revisions 1 to n, and where revision n+1 was not confirmed.
func rotated(t testing.TB, n int) []byte {
	t.Helper()
	path := dbPath(t)
	s, _ := open(t, path)
	for i := 1; i <= n; i++ {
		if _, err := s.Commit(withKey(t, i), Meta{Message: fmt.Sprint("key ", i)}); err != nil {
			t.Fatal(err)
		}
		// Leases come and go beside it, and move the pages about.
		if err := s.Bucket("leases").Put(fmt.Appendf(nil, "lease%d", i%7), bytes.Repeat([]byte{'x'}, 200*(i%5))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Begin(withKey(t, n+1), Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RollBack(r.N, "not confirmed"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return read(t, path)
}

// owner opens the damaged database without a copy and tells the key that may
// log in, 0 for none.
func owner(t testing.TB, db []byte) (n int, rec Recovery) {
	t.Helper()
	path := place(t, t.TempDir(), db, nil)
	s, rec := open(t, path)
	defer s.Close()
	_, set := s.Confirmed()
	if len(set.System.Admin.Keys) == 1 {
		key := set.System.Admin.Keys[0]
		fmt.Sscanf(key[strings.LastIndexByte(key, ' ')+1:], "admin%03d", &n) //nolint:errcheck // 0 then
	}
	return n, rec
}

// eachPage changes every page that is not a meta page.
func eachPage(db []byte, change func(page []byte)) []byte {
	c := bytes.Clone(db)
	for p := 2 * pageSize; p+pageSize <= len(c); p += pageSize {
		change(c[p : p+pageSize])
	}
	return c
}

// TestNewestCredentials damages databases of every length of history so that
// no revision can be used: the last confirmed credentials that are readable
// must come back, wherever in the file bbolt put them.
func TestNewestCredentials(t *testing.T) {
	noMeta := func(db []byte) []byte {
		c := bytes.Clone(db)
		clear(c[:2*pageSize])
		return c
	}
	noHeaders := func(db []byte) []byte {
		return eachPage(db, func(p []byte) {
			if order.Uint16(p[8:]) == leafPage {
				clear(p[:headerSize])
			}
		})
	}
	noNumbers := func(db []byte) []byte { return bytes.ReplaceAll(db, []byte(`{"n":`), []byte(`{"?":`)) }
	damages := []struct {
		name string
		do   func(db []byte, n int) []byte
		lost int // how many of the last credentials
	}{
		{"checksums", func(db []byte, _ int) []byte { return spoil(db) }, 0},
		{"meta pages", func(db []byte, _ int) []byte { return noMeta(spoil(db)) }, 0},
		{"page headers and settings", func(db []byte, _ int) []byte { return noHeaders(noSettings(db)) }, 0},
		{"meta pages and numbers", func(db []byte, _ int) []byte { return noMeta(noNumbers(db)) }, 0},
		{"the newest credentials", func(db []byte, n int) []byte {
			return spoil(bytes.ReplaceAll(db, []byte(fmt.Sprintf(`admin%03d"`, n)), []byte(fmt.Sprintf(`admin%03d?`, n))))
		}, 1},
		{"a number of an old revision grew", func(db []byte, _ int) []byte {
			return noSettings(bytes.ReplaceAll(db, []byte(`{"n":2,`), []byte(`{"n":9,`)))
		}, 0},
	}
	moved := 0
	for n := 3; n <= 40; n += 1 + n/12 {
		db := rotated(t, n)
		if i := bytes.LastIndex(db, []byte(`"admin":`)); !bytes.Contains(db[i:min(len(db), i+400)], fmt.Appendf(nil, "admin%03d", n)) {
			moved++
		}
		for _, d := range damages {
			got, rec := owner(t, d.do(db, n))
			if want := n - d.lost; got != want || rec.From != FromDefaults {
				t.Errorf("%d revisions, damaged %s: key %d may log in (%q), want %d", n, d.name, got, rec.From, want)
			}
		}
	}
	if moved == 0 {
		t.Error("the newest credentials were the last in every file: this proves nothing")
	}
}

// noSettings makes all settings unusable and leaves numbers and credentials.
func noSettings(db []byte) []byte {
	return bytes.ReplaceAll(db, []byte(`"hostname":"`), []byte(`"hostNAME":"`))
}

// TestCopyAndDatabaseDamaged: the newer of the two has the credentials.
func TestCopyAndDatabaseDamaged(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	var old []byte
	for i := 1; i <= 9; i++ {
		if _, err := s.Commit(withKey(t, i), Meta{}); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			old = read(t, copyPath(path))
		}
	}
	s.Close()
	db, good := read(t, path), read(t, copyPath(path))
	for _, c := range []struct {
		name     string
		db, copy []byte
		want     string
	}{
		{"an old copy", spoil(db), spoilCopy(old), "admin009"},
		{"a database without the newest", spoil(bytes.ReplaceAll(db, []byte(`admin009"`), []byte(`admin009?`))), spoilCopy(good), "admin009"},
	} {
		s, _ := open(t, place(t, t.TempDir(), c.db, c.copy))
		_, set := s.Confirmed()
		if got := fmt.Sprint(set.System.Admin.Keys); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s may log in, want %s", c.name, got, c.want)
		}
		s.Close()
	}
}

// TestConfirmedBeforeTheDamage: the page on which a revision still waits for
// its confirm is older than the one on which it was confirmed.
func TestConfirmedBeforeTheDamage(t *testing.T) {
	for n := 1; n <= 12; n++ {
		path := dbPath(t)
		s, _ := open(t, path)
		for i := 1; i <= n; i++ {
			r := begin(t, s, i)
			if _, err := s.Confirm(r.N); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		db := read(t, path)
		clear(db[:2*pageSize])
		rec, was, _ := usableAfter(t, place(t, t.TempDir(), db, nil))
		if want := fmt.Sprintf("%d router%d", n, n); was != want || rec.From != FromDatabase {
			t.Errorf("%d revisions: in force %s (%q), want %s", n, was, rec.From, want)
		}
	}
}
