package migrate

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// Steps run in order, each on what the one before made.
func TestRun(t *testing.T) {
	steps := []Step{
		func(d map[string]json.RawMessage) error { d["b"] = d["a"]; delete(d, "a"); return nil },
		func(d map[string]json.RawMessage) error {
			if d["b"] == nil {
				return errors.New("b is missing")
			}
			d["c"] = json.RawMessage(`2`)
			return nil
		},
	}
	tests := []struct {
		doc     string
		version int
		want    string
		err     string
	}{
		{`{"version":1,"a":5}`, 1, `{"b":5,"c":2,"version":3}`, ""},
		{`{"version":2,"b":6}`, 2, `{"b":6,"c":2,"version":3}`, ""},
		{`{"version":2}`, 2, "", "from version 2: b is missing"},
		{`{"version":3,  "x":1}`, 3, `{"version":3,  "x":1}`, ""},
		{`{"version":4}`, 4, "", "written by a newer Culvert; upgrade this router first"},
		{`{"version":-1}`, -1, "", "no such version"},
	}
	for _, tt := range tests {
		got, err := run([]byte(tt.doc), tt.version, steps)
		if string(got) != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %s, %v", tt.doc, got, err)
		}
	}
}
