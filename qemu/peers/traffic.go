package peers

import (
	"encoding/json"
	"fmt"
	"time"
)

// Traffic asks a host to count the ESP and IKE that comes to addresses of its
// own, from now on, and to send some. It is for counting packets of many
// devices only: whether tunnels work, real clients tell.
type Traffic struct {
	Listen  []string `json:"listen,omitempty"`
	Flights []Flight `json:"flights,omitempty"`
	Rate    int      `json:"rate,omitempty"` // packets a second, 0 is 500
}

// Flight is a packet for each SPI; for IKE they are the initiators'.
type Flight struct {
	From string   `json:"from"` // one of those listened at
	To   string   `json:"to"`
	IKE  bool     `json:"ike,omitempty"`
	SPIs []uint32 `json:"spis"`
}

// Counts is how many packets came, by "to from" ("to from ike" for IKE between
// ports 500) and SPI.
type Counts map[string]map[uint32]int

// Traffic does it and returns all that was counted until then.
func (h *Host) Traffic(t Traffic) (Counts, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	r, err := h.c.do(Request{Op: "traffic", Host: h.Name, Data: b})
	if err != nil {
		return nil, fmt.Errorf("%s: traffic: %w", h.Name, err)
	}
	var c Counts
	return c, json.Unmarshal(r.Out, &c)
}

// Pause is the time that a sender leaves after each of its bursts of n packets.
func (t Traffic) Pause(n int) time.Duration {
	rate := t.Rate
	if rate == 0 {
		rate = 500
	}
	return time.Duration(n) * time.Second / time.Duration(rate)
}
