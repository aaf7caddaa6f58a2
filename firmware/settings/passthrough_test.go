package settings

import (
	"fmt"
	"testing"
)

// TestAnyIsNoDevice: a document whose list holds the word for no limit must not
// mean less than it says, whatever hosts there are.
func TestAnyIsNoDevice(t *testing.T) {
	s, problems := Parse([]byte(`{"version": 1, "lan": {"hosts": {"any": {"mac": "02:00:00:00:00:0a", "address": "192.168.1.21"}}},
		"passthrough": {"pptp": {"enabled": true, "devices": ["any"]}}}`))
	if problems != nil {
		t.Fatal(problems)
	}
	if p := s.Validate(); len(p) != 1 || p[0].Path != "passthrough pptp devices" {
		t.Errorf("problems: %v", p)
	}
}

func TestPrefixes(t *testing.T) {
	s := Default()
	if err := Set(s, []string{"lan", "hosts", "nas", "mac", "02:00:00:00:00:09", "address", "192.168.1.200"}); err != nil {
		t.Fatal(err)
	}
	got := s.Prefixes([]string{"192.168.1.128/25", "192.168.1.7", "nas", "192.168.1.0/29", "192.168.1.0/30", "192.168.1.8", "nobody"})
	if want := "[192.168.1.0/29 192.168.1.8/32 192.168.1.128/25]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
