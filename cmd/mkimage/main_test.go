package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/settings"
)

func TestCheckSettings(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, text, want string }{
		{"good", string(settings.Export(settings.Default(), true)), ""},
		{"syntax", `{"version": 1,`, "not JSON"},
		{"unknown", `{"version": 1, "lan": {"adress": "192.168.2.1/24"}}`, "adress"},
		{"invalid", `{"version": 1, "lan": {"address": "192.168.2.0/24"}}`, "192.168.2.0/24"},
	} {
		file := filepath.Join(dir, c.name)
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkSettings(file)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want %q and the file's name", c.name, err, c.want)
		}
	}
	if err := checkSettings(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "SETTINGS") {
		t.Errorf("no file: got %v", err)
	}
}
