package api

import (
	"net/netip"
	"time"
)

// Of a diagnosis.
const (
	MethodDiagnose      = "diagnose"       // DiagnoseParams -> Diagnosis, by what the router remembers of the last attempt
	MethodDiagnoseWatch = "diagnose.watch" // DiagnoseParams; stream of Watching, which ends with what was found
)

// Watching first tells that packets are watched from now on, so that an attempt
// may begin; then, when its outcome was seen or half a minute is over, what was
// found. While the WAN is down it is found at once.
type Watching struct {
	Found *Diagnosis `json:"found,omitempty"` // nil: watching
}

// DiagnoseParams asks why a VPN of a LAN device does not work.
type DiagnoseParams struct {
	Device     string     `json:"device"` // address or name
	Server     netip.Addr `json:"server"`
	ServerName string     `json:"server_name,omitempty"` // as it was asked for, when that was a name
	Protocol   string     `json:"protocol,omitempty"`    // "pptp", "l2tp", "ipsec", "sstp", "openvpn", "wireguard"; "" is whatever the device tries
}

// Diagnosis is what was found.
type Diagnosis struct {
	Device     netip.Addr `json:"device"`
	Name       string     `json:"name,omitempty"`
	Server     netip.Addr `json:"server"`
	ServerName string     `json:"server_name,omitempty"`
	Protocol   string     `json:"protocol,omitempty"` // what was found to be tried, else what was asked for
	// Settled is false when too little was seen to tell; ask again with Watch.
	Settled  bool          `json:"settled"`
	Cause    string        `json:"cause"`         // see package diagnose
	Text     string        `json:"text"`          // the cause in a sentence
	Fix      string        `json:"fix,omitempty"` // what to do about it
	Hints    []string      `json:"hints,omitempty"`
	Evidence []Evidence    `json:"evidence"`
	Watched  time.Duration `json:"watched,omitempty"` // 0: the last attempt
}

// Evidence is one kind of packets between the device and the server.
type Evidence struct {
	Part       string        `json:"part"`            // "tcp 1723", "gre", "udp 500", "udp 4500", "udp 1701", "esp", "ah", "tcp 443", "openvpn", "wireguard"
	Ports      string        `json:"ports,omitempty"` // the device's and the server's, "50412>1723"
	PacketsOut uint64        `json:"packets_out"`     // from the device
	BytesOut   uint64        `json:"bytes_out"`
	PacketsIn  uint64        `json:"packets_in"` // to the device
	BytesIn    uint64        `json:"bytes_in"`
	Uncounted  bool          `json:"uncounted,omitempty"` // it was sent, but nothing counts it
	Age        time.Duration `json:"age"`                 // since the first
	Last       time.Duration `json:"last,omitempty"`      // since the last; 0 also when nothing tells
	Watched    bool          `json:"watched,omitempty"`   // seen while watching; else of the table of connections
}
