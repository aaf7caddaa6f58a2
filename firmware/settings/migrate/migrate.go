// Package migrate brings settings of older firmware up to date: one step, and
// one file (v1.go, v2.go ...), for each version that was left behind.
package migrate

import (
	"encoding/json"
	"fmt"
)

// A Step turns the document of one version into the next one's. It works on
// JSON, because the types of an old version are gone.
type Step func(doc map[string]json.RawMessage) error

// steps holds the step from version N at index N-1. There is one version so far.
func steps() []Step { return nil }

// Current is the version that To leads to.
func Current() int { return len(steps()) + 1 }

// To brings a JSON document up to the current version; one that is current
// comes back as it is. A document of a newer version is refused: its meaning
// is not known here.
func To(doc []byte, version int) ([]byte, error) { return run(doc, version, steps()) }

func run(doc []byte, version int, steps []Step) ([]byte, error) {
	current := len(steps) + 1
	switch {
	case version < 1:
		return nil, fmt.Errorf("no such version")
	case version > current:
		return nil, fmt.Errorf("written by a newer Culvert; upgrade this router first")
	case version == current:
		return doc, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, err
	}
	for v := version; v < current; v++ {
		if err := steps[v-1](m); err != nil {
			return nil, fmt.Errorf("from version %d: %w", v, err)
		}
		m["version"] = fmt.Appendf(nil, "%d", v+1)
	}
	return json.Marshal(m)
}
