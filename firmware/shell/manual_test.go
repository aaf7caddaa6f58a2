package shell_test

import (
	"os"
	"testing"

	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/firmware/shell"
)

// TestManual keeps docs/shell.md what the command tree says.
func TestManual(t *testing.T) {
	const path = "../../docs/shell.md"
	if *golden.Update {
		if err := os.WriteFile(path, []byte(shell.Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != shell.Reference() {
		t.Errorf("%s is not what the command tree says; write it anew: go test ./firmware/shell -run TestManual -update", path)
	}
}
