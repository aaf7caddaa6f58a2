package settings

import (
	"os"
	"testing"

	"github.com/culvert-fw/culvert/firmware/golden"
)

// TestManual keeps docs/settings.md what the schema says.
func TestManual(t *testing.T) {
	const path = "../../docs/settings.md"
	if *golden.Update {
		if err := os.WriteFile(path, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != Reference() {
		t.Errorf("%s is not what the schema says; write it anew: go test ./firmware/settings -run TestManual -update", path)
	}
}
