package bench

import (
	"encoding/json"
	"fmt"
	"os"
)

// Report is a whole run.
type Report struct {
	Commit string `json:"commit"` // of the source tree, with "-dirty" when it was changed
	Kernel string `json:"kernel"` // of the host, as uname says
	// CPU of the host: times in ms are of this one.
	CPU     string            `json:"cpu"`
	Tools   map[string]string `json:"tools"` // version by program: go, qemu, nft, dnsmasq
	Results []Result          `json:"results"`
}

// Result is what a group came to.
type Result struct {
	Group  string `json:"group"`
	Ground string `json:"ground"`
	Rows   []Row  `json:"rows"`
	Failed string `json:"failed,omitempty"` // why rows are missing; "" when none is
}

// Failed counts the groups that failed.
func (r Report) Failed() (n int) {
	for _, g := range r.Results {
		if g.Failed != "" {
			n++
		}
	}
	return n
}

// Missed counts the rows that miss their bar.
func (r Report) Missed() (n int) {
	for _, g := range r.Results {
		for _, row := range g.Rows {
			if row.Verdict() == Missed {
				n++
			}
		}
	}
	return n
}

// JSON is the report with its fields always in the same order: two runs can be
// compared with diff.
func (r Report) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return append(b, '\n'), nil
}

// ReadReport reads what JSON wrote.
func ReadReport(file string) (Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Report{}, err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return Report{}, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// byGround is the results of one ground after those of the other, each in their
// own order.
func (r Report) byGround() map[string][]Result {
	m := map[string][]Result{}
	for _, g := range r.Results {
		m[g.Ground] = append(m[g.Ground], g)
	}
	return m
}

// grounds is the order and the headings of the tables.
var grounds = []struct{ name, heading string }{
	{QEMUMIPS, "qemu-mips: MIPS 24Kc in QEMU, instructions counted"},
	{AMD64, "amd64: network namespaces of the host"},
}
