package qemu

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
)

// claimWithKey makes the lab the owner of a router, on the serial line.
func claimWithKey(t *testing.T, l *lab.Lab) *api.Status {
	t.Helper()
	if err := l.Router.Activate(60 * time.Second); err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(l.Key.PublicKey())))
	for _, exchange := range [][2]string{{"New password, or key: ", "key\r"}, {"Public key .*: ", key + "\r"}} {
		if err := l.Router.Console.Exchange(exchange[0], exchange[1], 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Router.Console.Expect("The router is yours", 60*time.Second); err != nil {
		t.Fatal(err)
	}
	st := l.Ready()
	if !st.Claimed {
		t.Error("show status says that nobody claimed the router")
	}
	return st
}

// TestDataDisk gives the router data disks of other sizes than vmrun's own.
func TestDataDisk(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), NoBoot: true})
	const mb = 1 << 20
	for _, c := range []struct {
		name     string
		fs, size int64
		say      string
	}{
		{"a larger disk under a small file system", 8 * mb, 80 * mb, "data: grown to 81920 KiB"},
		{"a blank disk", 0, 21 * mb, "remade (was blank)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := l.For(t)
			l.DataNew(c.fs, c.size)
			l.Boot()
			if st := l.Ready(); len(st.Problems) > 0 && strings.Contains(strings.Join(st.Problems, " "), "Data:") {
				t.Errorf("problems: %q", st.Problems)
			}
			log, err := l.Router.Command("show log init 200")
			if err != nil || !strings.Contains(log, c.say) {
				t.Errorf("the log does not say %q (%v):\n%s", c.say, err, log)
			}
			l.Commit("set system hostname attic")
			l.PowerOff()
			l.DataCheck(c.size)
			if !slices.Contains(l.DataNames(), "culvert.db") {
				t.Errorf("the settings are not on the disk: %v", l.DataNames())
			}
		})
	}
}
