package shell_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/shell"
	"github.com/culvert-fw/culvert/firmware/transcript"
)

// TestInterruptStays: Ctrl-C at the question whether to leave and lose changes
// is no yes. Each key waits for its prompt: typed ahead, Ctrl-C interrupts the
// command before.
func TestInterruptStays(t *testing.T) {
	n := apitest.New(t)
	n.Start(t)
	r, w := io.Pipe()
	var out transcript.Buffer
	o := options(n)
	o.Terminal = shell.NewTerminal(shell.NewInput(r), &out)
	done := make(chan int, 1)
	go func() { done <- shell.New(o).Run(context.Background()) }()
	for _, step := range [][2]string{
		{"culvert> ", "set system hostname attic\r"},
		{"culvert*> ", "exit\r"},
		{"Leave and lose them? [y/N] ", "\x03"},
		{"[y/N] \r\nculvert*> ", "exit\r"},
		{"exit\r\nYou have changes that are not committed. Leave and lose them? [y/N] \r\nculvert*> exit\r\nYou have changes that are not committed. Leave and lose them? [y/N] ", "y\r"},
	} {
		waitFor(t, &out, step[0])
		io.WriteString(w, step[1])
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("y does not leave; so far:\n%q", out.String())
	}
}
