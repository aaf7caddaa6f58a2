package shell_test

import (
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/api/apitest"
)

// TestInterruptStays: Ctrl-C at the question whether to leave and lose changes
// is no yes. Each key waits for its prompt: typed ahead, Ctrl-C interrupts the
// command before.
func TestInterruptStays(t *testing.T) {
	n := apitest.New(t)
	n.Start(t)
	const question = "Leave and lose them? [y/N] "
	shown := converse(t, n, step{want: "culvert> ", keys: "set system hostname attic\r"}, step{want: "culvert*> ", keys: "exit\r"},
		step{want: question, keys: "\x03"}, step{want: "\r\nculvert*> ", keys: "exit\r"}, step{want: question, keys: "y\r"})
	if !strings.HasSuffix(shown, question+"y\n\n") {
		t.Errorf("y does not leave:\n%q", shown)
	}
}
