package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/settings"
)

const adminKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g admin@laptop"

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func open(t testing.TB, path string) (*Store, Recovery) {
	t.Helper()
	s, rec, err := Open(path, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s, rec
}

func dbPath(t testing.TB) string { return filepath.Join(t.TempDir(), "culvert.db") }

// named is a tree that n tells apart, with credentials.
func named(n int) *settings.Settings {
	s := settings.Default()
	s.System.Hostname = fmt.Sprintf("router%d", n)
	s.System.Admin.Keys = []string{adminKey}
	return s
}

func commit(t testing.TB, s *Store, n int) Rev {
	t.Helper()
	r, err := s.Commit(named(n), Meta{Message: fmt.Sprint("commit ", n), Author: json.RawMessage(`{"via":"serial"}`)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func begin(t testing.TB, s *Store, n int) Rev {
	t.Helper()
	r, err := s.Begin(named(n), Meta{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// inForce is the host name of the confirmed settings.
func inForce(s *Store) string {
	r, set := s.Confirmed()
	return fmt.Sprintf("%d %s", r.N, set.System.Hostname)
}

func states(t testing.TB, s *Store) string {
	t.Helper()
	h, err := s.History()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range h {
		out = append(out, fmt.Sprintf("%d %s", r.N, r.State))
	}
	return strings.Join(out, ", ")
}

func TestFresh(t *testing.T) {
	s, rec := open(t, dbPath(t))
	if diff := cmp.Diff(Recovery{}, rec); diff != "" {
		t.Errorf("recovery of a fresh store:\n%s", diff)
	}
	if _, set := s.Confirmed(); s.HasConfirmed() || !set.Equal(settings.Default()) {
		t.Error("a fresh store has something confirmed")
	}
	if _, _, ok := s.Pending(); ok {
		t.Error("a fresh store has something pending")
	}
}

// Each line of the life of revisions: what is done, and what is in force and
// in the history after it.
func TestRevisions(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	reboot := func() { must(s.Close()); s, _ = open(t, path) }
	steps := []struct {
		name    string
		do      func()
		inForce string
		states  string
	}{
		{"first commit", func() { commit(t, s, 1) }, "1 router1", "1 confirmed"},
		{"commit confirm", func() { begin(t, s, 2) }, "1 router1", "2 pending, 1 confirmed"},
		{"confirmed in time", func() { _, err := s.Confirm(2); must(err) }, "2 router2", "2 confirmed, 1 confirmed"},
		{"commit confirm", func() { begin(t, s, 3) }, "2 router2", "3 pending, 2 confirmed, 1 confirmed"},
		{"a second pending one", func() { begin(t, s, 4) }, "2 router2", "4 pending, 3 rolled-back, 2 confirmed, 1 confirmed"},
		{"its time is over: back to the last confirmed one", func() {
			r, set, err := s.RollBack(4, "not confirmed within 2m")
			must(err)
			if r.N != 2 || set.System.Hostname != "router2" {
				t.Errorf("rolled back to %d %s", r.N, set.System.Hostname)
			}
		}, "2 router2", "4 rolled-back, 3 rolled-back, 2 confirmed, 1 confirmed"},
		{"one that can't be applied", func() {
			begin(t, s, 5)
			_, _, err := s.Fail(5, "step 3 failed")
			must(err)
		}, "2 router2", "5 failed, 4 rolled-back, 3 rolled-back, 2 confirmed, 1 confirmed"},
		{"a crash while pending", func() { begin(t, s, 6); reboot() }, "2 router2", "6 rolled-back, 5 failed, 4 rolled-back, 3 rolled-back, 2 confirmed, 1 confirmed"},
		{"the number is not used again", func() { commit(t, s, 7) }, "7 router7", "7 confirmed, 6 rolled-back, 5 failed, 4 rolled-back, 3 rolled-back, 2 confirmed, 1 confirmed"},
		{"a reboot", reboot, "7 router7", "7 confirmed, 6 rolled-back, 5 failed, 4 rolled-back, 3 rolled-back, 2 confirmed, 1 confirmed"},
	}
	for _, st := range steps {
		st.do()
		if got := inForce(s); got != st.inForce {
			t.Errorf("%s: in force is %s, want %s", st.name, got, st.inForce)
		}
		if got := states(t, s); got != st.states {
			t.Errorf("%s: history is %s, want %s", st.name, got, st.states)
		}
	}
	if _, err := s.Confirm(6); !errors.Is(err, ErrNotPending) {
		t.Errorf("confirming what was rolled back: %v", err)
	}
	if _, _, err := s.Get(99); err == nil || err.Error() != "there is no revision 99; see: history" {
		t.Errorf("Get(99): %v", err)
	}
}

func TestPendingAtReboot(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	commit(t, s, 1)
	begin(t, s, 2)
	s.Close()
	s, rec := open(t, path)
	if rec.RolledBack != 2 || rec.Damaged || rec.Text == "" {
		t.Errorf("recovery %+v", rec)
	}
	if r, _, _ := s.Get(2); r.Note != "the router restarted before it was confirmed" {
		t.Errorf("note %q", r.Note)
	}
	s.Close()
	if _, rec = open(t, path); rec != (Recovery{}) {
		t.Errorf("the next start says it again: %+v", rec)
	}
}

func TestGetAndChanges(t *testing.T) {
	s, _ := open(t, dbPath(t))
	commit(t, s, 1)
	commit(t, s, 2)
	r, set, err := s.Get(2)
	want := Rev{N: 2, Time: epoch, Author: json.RawMessage(`{"via":"serial"}`), Message: "commit 2", State: StateConfirmed, Parent: 1}
	if diff := cmp.Diff(want, r); err != nil || diff != "" || !set.Equal(named(2)) {
		t.Errorf("Get: %v\n%s", err, diff)
	}
	lines, err := s.Changes(2)
	if diff := cmp.Diff([]string{"- set system hostname router1", "+ set system hostname router2"}, lines); err != nil || diff != "" {
		t.Errorf("Changes: %v\n%s", err, diff)
	}
}

func TestInvalidIsNotStored(t *testing.T) {
	s, _ := open(t, dbPath(t))
	bad := named(1)
	bad.LAN.Address = netip.Prefix{}
	bad.SSH.Port = 0
	_, err := s.Begin(bad, Meta{})
	var p settings.Problems
	if !errors.As(err, &p) || len(p) != 2 {
		t.Errorf("Begin: %v", err)
	}
	if got := states(t, s); got != "" {
		t.Errorf("history %s", got)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	path := dbPath(t)
	s, _ := open(t, path)
	commit(t, s, 1)
	for i := 2; i <= 150; i++ {
		begin(t, s, i)
	}
	h, err := s.History()
	if err != nil || len(h) != keepRevisions || h[0].N != 150 {
		t.Fatalf("%d revisions, newest %v: %v", len(h), h[0], err)
	}
	if _, _, err := s.Get(1); err != nil {
		t.Errorf("the confirmed revision was pruned: %v", err)
	}
	if _, _, err := s.Get(50); err == nil {
		t.Error("revision 50 is still there")
	}
	if fi, _ := os.Stat(path); fi.Size() > 512<<10 {
		t.Errorf("the database took %d bytes", fi.Size())
	}
}

// The largest tree, committed again and again, stays within the file's limit.
func TestLargestTree(t *testing.T) {
	t.Parallel()
	set := named(1)
	set.LAN.Address = netip.MustParsePrefix("10.0.0.1/16")
	set.Firewall.Forwards = map[string]settings.Forward{}
	for i := range 10000 {
		set.Firewall.Forwards[fmt.Sprintf("a-forward-name-of-the-greatest-length-that-there-may-be-ok%05d", i)] = settings.Forward{
			Enabled: true, Protocol: settings.TCPUDP, Port: 1000 + i, To: netip.MustParseAddr("10.0.255.100"), ToPort: 50000}
	}
	path := dbPath(t)
	s, _ := open(t, path)
	for i := range 12 {
		set.SSH.Port = 100 + i
		r, err := s.Begin(set, Meta{})
		if err == nil {
			_, err = s.Confirm(r.N)
		}
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	s.Close()
	s, rec := open(t, path)
	if _, got := s.Confirmed(); rec.Damaged || !got.Equal(set) {
		t.Errorf("not the same after a reopen: %+v", rec)
	}
}

func TestBuckets(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	kv := s.Bucket("leases")
	if v, err := kv.Get([]byte("x")); v != nil || err != nil {
		t.Errorf("Get in a new bucket: %q %v", v, err)
	}
	all := map[string][]byte{}
	for i := range 300 {
		all[fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)] = fmt.Appendf(nil, `{"addr":%d}`, i)
	}
	for _, err := range []error{kv.PutAll(all), kv.Put([]byte("empty"), nil), kv.Delete([]byte("02:00:00:00:00:07")), kv.Delete([]byte("nothing"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	delete(all, "02:00:00:00:00:07")
	all["empty"] = []byte{}
	s.Close()
	s, _ = open(t, path)
	kv = s.Bucket("leases")
	got := map[string][]byte{}
	if err := kv.ForEach(func(k, v []byte) error { got[string(k)] = append([]byte{}, v...); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Error(diff)
	}
	if v, _ := kv.Get([]byte("empty")); v == nil {
		t.Error("an empty value reads as none")
	}
	n := 0
	if err := kv.ForEach(func(k, v []byte) error { n++; return ErrStop }); err != nil || n != 1 {
		t.Errorf("Stop: %d calls, %v", n, err)
	}
	if err := s.Bucket(bucketRevisions).Put([]byte("k"), []byte("v")); err == nil {
		t.Error("revisions can be written as a bucket")
	}
	if err := kv.PutAll(map[string][]byte{"good": []byte("v"), strings.Repeat("k", 40000): []byte("v")}); err == nil {
		t.Error("a key of 40000 bytes was stored")
	} else if v, _ := kv.Get([]byte("good")); v != nil {
		t.Error("half of a failed PutAll was stored")
	}
}

func TestSecondOpenFails(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	commit(t, s, 1)
	_, _, err := Open(path, Options{Timeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("second Open: %v", err)
	}
	if len(damagedFiles(path)) != 0 {
		t.Error("a locked database was taken for a damaged one")
	}
	commit(t, s, 2)
}

func TestModes(t *testing.T) {
	path := dbPath(t)
	s, _ := open(t, path)
	commit(t, s, 1)
	for _, f := range []string{path, copyPath(path)} {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, fi.Mode(), err)
		}
	}
}

// written is what this process wrote through system calls, in bytes.
func written(t testing.TB) (n int64) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip("no /proc/self/io: kernel without task I/O accounting")
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("no wchar in %s", b)
	return 0
}

// A commit with its last good copy must stay cheap for flash.
func TestBytesPerCommit(t *testing.T) {
	s, _ := open(t, dbPath(t))
	for i := 1; i <= 20; i++ {
		commit(t, s, i)
	}
	before := written(t)
	for i := 21; i <= 80; i++ {
		commit(t, s, i)
	}
	per := (written(t) - before) / 60
	t.Logf("%d bytes a commit", per)
	if per > 32<<10 {
		t.Errorf("%d bytes a commit, want at most 32768", per)
	}
}

func BenchmarkCommit(b *testing.B) {
	s, _ := open(b, dbPath(b))
	before := written(b)
	for i := 1; b.Loop(); i++ {
		commit(b, s, i)
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N), "written/op")
}

func BenchmarkLease(b *testing.B) {
	s, _ := open(b, dbPath(b))
	commit(b, s, 1)
	before := written(b)
	for i := 0; b.Loop(); i++ {
		if err := s.Bucket("leases").Put(fmt.Appendf(nil, "02:00:00:00:00:%02x", i%100), fmt.Appendf(nil, `{"addr":"192.168.1.%d","expires":"2026-03-01T12:00:00Z"}`, i%100)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N), "written/op")
}
