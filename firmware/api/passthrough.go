package api

import (
	"net/netip"
	"time"
)

// PassthroughCounters is what table ip, which carries native IPsec, counts and
// holds. Counts of ESP are of the SPIs that it holds now.
type PassthroughCounters struct {
	Servers []ServerCounters `json:"servers"`
	Sets    []SetFill        `json:"sets"` // empty while there is no table ip
	// Expectations are connections that helpers wait for: two of each PPTP call until its GRE begins.
	Expectations Fill `json:"expectations"`
	// SecondDevices is how many further devices of a server netd let in since
	// it started, Refused how many packets of devices it was told of that it did
	// not let in, because the server had MostDevices.
	SecondDevices uint64 `json:"second_devices"`
	Refused       uint64 `json:"refused"`
	// Bindings is how many SPIs of shared servers were found to be a device's,
	// Corrections how many of them ended again, in doubt or with the device.
	Bindings    uint64 `json:"bindings"`
	Corrections uint64 `json:"corrections"`
	MostDevices int    `json:"most_devices"`
	// Names are the DNS names in lists of servers.
	Names []ServerName `json:"names,omitempty"`
	// Keeper is the device that has port 1701 (or, where copies are off, 500) to
	// itself: passthrough priority.
	Keeper netip.Addr `json:"keeper,omitzero"`
	// Clashes is how many packets were dropped since the router started because
	// their connection was as another device's after translation, as of protocols
	// without ports.
	Clashes uint64 `json:"clashes"`
	// L2TPClashes are since netd started, the oldest first.
	L2TPClashes []L2TPClash `json:"l2tp_clashes,omitempty"`
	// Dropped is who sent more of something new (IKE SAs, SPIs, servers) than a
	// device may, Crowding who has more than a quarter of a set: nothing new of
	// theirs is learned.
	Dropped  []Dropped    `json:"dropped,omitempty"`
	Crowding []netip.Addr `json:"crowding,omitempty"`
}

// Dropped is the packets of a device that were dropped because of a limit,
// since it first reached one; it is forgotten an hour after the last.
type Dropped struct {
	Device  netip.Addr `json:"device"`
	Name    string     `json:"name,omitempty"`
	Packets uint64     `json:"packets"`
}

// L2TPClash is a Tunnel ID that two devices chose for the same server.
type L2TPClash struct {
	Server netip.Addr `json:"server"`
	Tunnel uint16     `json:"tunnel"`
	Device netip.Addr `json:"device"` // the second
	Owner  netip.Addr `json:"owner"`  // the first, which keeps it
	Time   time.Time  `json:"time"`
}

// ServerCounters is the native ESP of a server.
type ServerCounters struct {
	Server  netip.Addr `json:"server"`
	Devices int        `json:"devices"`
	// Copied is that each device gets a copy of what the server sends, but for
	// SPIs whose device is known: SPIsBound of SPIsIn. Copies is how many packets
	// were copied, each to all devices.
	Copied    bool   `json:"copied,omitempty"`
	SPIsBound int    `json:"spis_bound"`
	Copies    uint64 `json:"copies"`
	SPIsOut   int    `json:"spis_out"` // of the devices' packets
	PktsOut   uint64 `json:"packets_out"`
	BytesOut  uint64 `json:"bytes_out"`
	SPIsIn    int    `json:"spis_in"` // of the server's
	PktsIn    uint64 `json:"packets_in"`
	BytesIn   uint64 `json:"bytes_in"` // before copying
}

// ServerName is a DNS name of VPN servers.
type ServerName struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"` // of the last answer
	// Held are those of earlier answers that count all the same.
	Held     []netip.Addr   `json:"held,omitempty"`
	Resolved *time.Duration `json:"resolved,omitempty"` // how long ago; nil: never
	Next     time.Duration  `json:"next"`               // until it is asked again
	Problem  string         `json:"problem,omitempty"`  // of the last lookup
}

// SetFill is how full a set of table ip is, in elements.
type SetFill struct {
	Name string `json:"name"`
	Used int    `json:"used"`
	Max  int    `json:"max"`
}

// Protection tells who of the LAN sends what outside encrypted tunnels.
type Protection struct {
	Address netip.Addr         `json:"address,omitzero"` // of the WAN
	Behind  string             `json:"behind"`           // "none", "cgnat" (RFC 6598), "nat" (a second one); "" without an address
	Devices []DeviceProtection `json:"devices"`
}

// DeviceProtection is a device that has connections now.
type DeviceProtection struct {
	Device  netip.Addr `json:"device"`
	Name    string     `json:"name,omitempty"`
	State   string     `json:"state"`             // "protected", "unprotected", "unknown"
	Reasons []string   `json:"reasons"`           // of the state, the weightiest first
	Tunnels []string   `json:"tunnels,omitempty"` // encrypted ones that are up, "WireGuard to 198.51.100.9"
	Outside []Outside  `json:"outside,omitempty"`
}

// Outside is connections of one kind that are not in an encrypted tunnel.
type Outside struct {
	// Kind is "pptp", "plain tunnel", "dns", "other", or "https", which SSTP
	// looks like.
	Kind    string `json:"kind"`
	Flows   int    `json:"flows"`
	Example string `json:"example"` // the one with the most bytes
}
