package shell_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/firmware/shell"
	"github.com/culvert-fw/culvert/firmware/transcript"
)

// step waits for a text behind that of the step before, and types.
type step struct {
	want, keys string
	then       func() // before the next step; may be nil
}

// converse returns what a session shows until it ends.
func converse(t *testing.T, n *apitest.Netd, steps ...step) string {
	t.Helper()
	r, w := io.Pipe()
	var out transcript.Buffer
	o := options(n)
	o.Terminal = shell.NewTerminal(shell.NewInput(r), &out)
	done := make(chan int, 1)
	go func() { done <- shell.New(o).Run(context.Background()) }()
	at := 0
	for _, s := range steps {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if i := strings.Index(out.String()[at:], s.want); i >= 0 {
				at += i + len(s.want)
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no %q; so far:\n%s", s.want, screen(out.String()))
			}
		}
		io.WriteString(w, s.keys)
		if s.then != nil {
			s.then()
		}
	}
	w.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("the session does not end; so far:\n%s", screen(out.String()))
	}
	return screen(out.String())
}

// TestSetupLeft: Ctrl-C and Ctrl-D at every question leave the running settings
// and the candidate as they were.
func TestSetupLeft(t *testing.T) {
	answers := []step{
		{want: "protocol: ", keys: "ipsec\r"}, {want: "ipsec [on]: ", keys: "on\r"},
		{want: "servers [any]: ", keys: "198.51.100.10\r"}, {want: "devices [any]: ", keys: "192.168.1.10\r"},
	}
	for i := range len(answers) + 1 {
		for _, key := range []string{"\x03", "\x04"} {
			t.Run(fmt.Sprintf("%d %q", i, key), func(t *testing.T) {
				n := apitest.New(t)
				canned(n)
				n.Start(t)
				steps := append([]step{{want: "culvert> ", keys: "set system hostname attic\r"}, {want: "culvert*> ", keys: "setup passthrough\r"}}, answers[:i]...)
				last := "[y/N] "
				if i < len(answers) {
					last = answers[i].want
				}
				shown := converse(t, n, append(steps, step{want: last, keys: key}, step{want: "Nothing was changed."},
					step{want: "culvert*> ", keys: "compare\r"}, step{want: "culvert*> ", keys: "discard; exit\r"})...)
				_, compared, _ := strings.Cut(shown, "> compare\n")
				if want := "- set system hostname culvert\n+ set system hostname attic\nculvert*> "; !strings.HasPrefix(compared, want) {
					t.Errorf("the candidate is not what it was:\n%s", shown)
				}
				if run := n.Settings(); !run.Equal(settings.Default()) {
					t.Errorf("the running settings changed: %q", settings.Compare(settings.Default(), run))
				}
			})
		}
	}
}

// TestSetupConflict: what another admin committed during the questions is told,
// and the answers are kept.
func TestSetupConflict(t *testing.T) {
	n := apitest.New(t)
	canned(n)
	n.Start(t)
	shown := converse(t, n, step{want: "culvert> ", keys: "setup passthrough\r"}, step{want: "protocol: ", keys: "l2tp\r"},
		step{want: "l2tp [on]: ", then: func() { n.Edit(t, api.Author{Via: "serial"}, "system", "hostname", "cellar") }},
		step{keys: "off\r"}, step{want: "[y/N] ", keys: "y\r"}, step{want: "Not committed: "},
		step{want: "culvert*> ", keys: "refresh; commit\r"}, step{want: "Revision 3 runs", keys: "exit\r"})
	if run := n.Settings(); run.System.Hostname != "cellar" || run.Passthrough.L2TP.Enabled {
		t.Errorf("not what both admins set:\n%s", shown)
	}
}

// TestCommitOwned: the owner's password, which the shell never sees, does not
// stand in the way of a commit.
func TestCommitOwned(t *testing.T) {
	n := apitest.New(t)
	n.Start(t)
	o := options(n)
	hash, _ := o.Hash("correct horse battery")
	if err := o.API.Call(t.Context(), api.MethodClaim, api.ClaimParams{Password: hash}, nil); err != nil {
		t.Fatal(err)
	}
	converse(t, n, step{want: "culvert> ", keys: "set system hostname attic\r"}, step{want: "culvert*> ", keys: "commit\r"},
		step{want: "Revision ", keys: "setup passthrough\r"}, step{want: "protocol: ", keys: "pptp\r"}, step{want: "pptp [on]: ", keys: "off\r"},
		step{want: "[y/N] ", keys: "y\r"}, step{want: "Revision ", keys: "exit\r"})
	if s := n.Settings(); s.System.Hostname != "attic" || s.Passthrough.PPTP.Enabled || string(s.System.Admin.Password) != hash {
		t.Errorf("after the commits: hostname %s, pptp %t, password %q", s.System.Hostname, s.Passthrough.PPTP.Enabled, s.System.Admin.Password)
	}
}
