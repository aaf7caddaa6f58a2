package qemu

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
)

// named are settings for a fleet, with the lab's key and a name to tell them by.
func named(l *lab.Lab, hostname string) []byte {
	s := settings.Default()
	s.System.Hostname = hostname
	s.System.Admin.Keys = []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(l.Key.PublicKey())))}
	return settings.Export(s, true)
}

// TestInitialSettings is a router that gets its first settings from a disk
// (vmrun -settings) or from its image (make image SETTINGS=FILE).
func TestInitialSettings(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{NoBoot: true})
	runSteps(t, l, []step{
		{"a fresh router takes them", testFirstSettings},
		{"a router with a revision does not", testLaterSettings},
		{"a file that is no JSON", testBrokenSettings},
		{"a value that is not allowed", testWrongSettings},
		{"baked into the image", testBakedSettings},
	})
}

func testFirstSettings(t *testing.T, l *lab.Lab) {
	l.SettingsDisk(named(l, "fleet-a"))
	l.Boot()
	if st := l.Ready(); st.Hostname != "fleet-a" || !st.Claimed {
		t.Errorf("hostname %q, claimed: %v; want fleet-a and true", st.Hostname, st.Claimed)
	}
	l.Commit("set dns cache-size 123")
	l.PowerOff()
}

func testLaterSettings(t *testing.T, l *lab.Lab) {
	l.SettingsDisk(named(l, "fleet-b"))
	l.Boot()
	if st := l.Ready(); st.Hostname != "fleet-a" {
		t.Errorf("hostname is %q, want fleet-a of before", st.Hostname)
	}
	if out, err := l.Router.Command("show settings"); err != nil || !strings.Contains(out, "set dns cache-size 123") {
		t.Errorf("the commit of before is gone (%v):\n%s", err, out)
	}
	var history []api.Revision
	if err := l.Show("history", &history); err != nil {
		t.Fatal(err)
	}
	imports := func(r api.Revision) bool { return r.Author.Via == "initial settings" }
	if len(history) != 2 || !imports(history[1]) || slices.ContainsFunc(history[:1], imports) {
		t.Errorf("history is %+v, want one import and one commit", history)
	}
	l.PowerOff()
}

// fallsBack boots a fresh router with initial settings that are no use, and
// wants defaults, no owner, and a word about it.
func fallsBack(t *testing.T, l *lab.Lab, content, say string) {
	t.Helper()
	l.DataNew(0, 0)
	l.SettingsDisk([]byte(content))
	l.Boot()
	st := claimWithKey(t, l) // would not be asked for if it had an owner
	if want := settings.Default().System.Hostname; st.Hostname != want {
		t.Errorf("hostname is %q, want %s", st.Hostname, want)
	}
	standing(t, l, say)
	l.PowerOff()
}

func testBrokenSettings(t *testing.T, l *lab.Lab) {
	fallsBack(t, l, `{"system": {"hostname": oops}}`, "not a JSON object; they are not used")
}

func testWrongSettings(t *testing.T, l *lab.Lab) {
	content := strings.Replace(string(named(l, "fleet-a")), "fleet-a", "two words", 1)
	fallsBack(t, l, content, "The initial settings can't be used, the router starts with its defaults: system hostname: not a name (got two words;")
}

func testBakedSettings(t *testing.T, l *lab.Lab) {
	l.DataNew(0, 0)
	l.SettingsDisk(nil)
	l.Baked(named(l, "baked"))
	l.Boot()
	if st := l.Ready(); st.Hostname != "baked" || !st.Claimed {
		t.Errorf("hostname %q, claimed: %v; want baked and true", st.Hostname, st.Claimed)
	}
}
