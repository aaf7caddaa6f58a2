package sysctl

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestObserve(t *testing.T) {
	dir := Dir(t.TempDir())
	for key, mode := range map[string]os.FileMode{"a/b": 0o644, "a/ro": 0o444} {
		name := filepath.Join(string(dir), key)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("4096\t16384  4194304\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	got, err := dir.Observe([]netstate.Sysctl{
		{Key: "a/b", Why: "a reason"}, {Key: "a/ro"}, {Key: "a/ro", Optional: true}, {Key: "a/none"}, {Key: "a/none", Optional: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []netstate.Sysctl{{Key: "a/b", Value: "4096 16384 4194304"}, {Key: "a/ro", Value: "4096 16384 4194304"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNoWayOut(t *testing.T) {
	for _, key := range []string{"../etc/passwd", "net/../../etc", "/net", "net//ipv4", ""} {
		if err := Dir(t.TempDir()).Do(netstate.Change{Op: netstate.SetSysctl, Sysctl: netstate.Sysctl{Key: key, Value: "1"}}); err == nil {
			t.Errorf("key %q was written", key)
		}
	}
}

func TestKernel(t *testing.T) {
	nstest.Require(t)
	const key = "net/ipv4/conf/default/rp_filter"
	for _, v := range []string{"1", "2", "0"} {
		if err := Default.Do(netstate.Change{Op: netstate.SetSysctl, Sysctl: netstate.Sysctl{Key: key, Value: v}}); err != nil {
			t.Fatal(err)
		}
		got, err := Default.Observe([]netstate.Sysctl{{Key: key}})
		if err != nil || len(got) != 1 || got[0].Value != v {
			t.Errorf("wrote %s, read %v, %v", v, got, err)
		}
	}
	if err := Default.Do(netstate.Change{Op: netstate.SetSysctl, Sysctl: netstate.Sysctl{Key: "net/ipv4/no_such_key", Value: "1"}}); err == nil {
		t.Error("a key that does not exist was written")
	}
}
