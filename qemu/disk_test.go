package qemu

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
)

// TestDiskFaults is a router whose data disk is garbage, full, or damaged.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	garbage := make([]byte, 16<<20)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range garbage {
		garbage[i] = byte(rng.Uint32())
	}
	l := lab.New(t, lab.Config{Settings: settings.Default(), Data: garbage})
	runSteps(t, l, []step{
		{"a disk of garbage is made anew", testGarbageDisk},
		{"full", testFullDisk},
		{"damaged settings database", testDamaged},
		{"damaged database and damaged copy", testDamagedTwice},
	})
}

func testGarbageDisk(t *testing.T, l *lab.Lab) {
	l.Ready()
	l.Commit("set system hostname attic")
	log, err := l.Router.Command("show log init 200")
	if err != nil || !strings.Contains(log, "remade") {
		t.Errorf("the log does not say that the disk was made anew (%v):\n%s", err, log)
	}
	l.PowerOff()
	l.DataFill("filler")
	l.Boot()
	st := l.Ready()
	if st.Hostname != "attic" {
		t.Errorf("hostname is %q after a reboot with a full disk, want attic", st.Hostname)
	}
}

func testFullDisk(t *testing.T, l *lab.Lab) {
	was := l.Ready()
	large := settings.Default()
	large.System.Hostname = "too-large"
	large.Firewall.Forwards = map[string]settings.Forward{}
	for i := range 2400 { // more than what is set aside for small changes
		large.Firewall.Forwards[fmt.Sprintf("forward-with-a-long-name-that-fills-a-disk-sooner-%d", i)] = settings.Forward{
			Enabled: true, Protocol: settings.TCP, Port: 1 + i, To: netip.MustParseAddr("192.168.1.9")}
	}
	out, err := l.Router.CommandWith("import; commit", settings.Export(large, true))
	if err == nil || !strings.Contains(out, "/data is full") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("a commit that does not fit: %v\n%s", err, out)
	}
	st := l.Ready()
	if st.Revision != was.Revision || st.Hostname != "attic" {
		t.Errorf("after the failed commit: revision %d, hostname %s; before: %d, %s", st.Revision, st.Hostname, was.Revision, was.Hostname)
	}
	shown, err := l.Router.Command("show settings")
	if err != nil || strings.Contains(shown, "long-name") {
		t.Errorf("part of the commit that failed is in force (%v)", err)
	}
	if got := restarts(st); got != restarts(was) {
		t.Errorf("services were restarted: %s, before %s", got, restarts(was))
	}
	l.PowerOff()
	for _, n := range l.DataNames() {
		if strings.HasPrefix(n, "filler") {
			l.DataRemove(n)
		}
	}
}

// testDamaged overwrites the middle of the database.
func testDamaged(t *testing.T, l *lab.Lab) {
	db := l.DataRead("culvert.db")
	for i := range db {
		if i%4096 > 100 {
			db[i] = 0xa5
		}
	}
	l.DataWrite("culvert.db", db)
	l.Boot()
	st := l.Ready() // the lab's key still opens the door
	if st.Hostname != "attic" {
		t.Errorf("hostname is %q, want attic of the last good copy", st.Hostname)
	}
	standing(t, l, "The settings database was damaged.")
	l.PowerOff()
	names := l.DataNames()
	i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "culvert.db.damaged-") })
	if i < 0 {
		t.Fatalf("the damaged file is not kept: %v", names)
	}
	if !bytes.Equal(l.DataRead(names[i]), db) {
		t.Error("the damaged file was changed")
	}
}

// testDamagedTwice also spoils the copy: defaults, but the owner stays.
func testDamagedTwice(t *testing.T, l *lab.Lab) {
	db := bytes.Repeat([]byte{0xa5}, 64<<10)
	l.DataWrite("culvert.db", db)
	i := slices.IndexFunc(l.DataNames(), func(n string) bool { return n == "settings.last-good.json" })
	if i < 0 {
		t.Fatalf("there is no last good copy: %v", l.DataNames())
	}
	copied := l.DataRead("settings.last-good.json")
	l.DataWrite("settings.last-good.json", bytes.Replace(copied, []byte("attic"), []byte("att\x00c"), 1))
	l.Boot()
	st := l.Ready() // with the lab's key: the credentials were kept
	if st.Hostname != settings.Default().System.Hostname {
		t.Errorf("hostname is %q, want the default", st.Hostname)
	}
	standing(t, l, "the admin's password and keys were kept")
	if out := strings.Join(l.Ready().Problems, "\n"); !strings.Contains(out, "is kept as") {
		t.Errorf("show status does not say where the damaged file is:\n%s", out)
	}
}
