// Package api is the protocol between netd, which owns the router's state, and
// those who face people: JSON lines over a unix socket. A request is
// {"id":1,"method":"status","params":{...}}; its answer carries the same id and
// either "result" or "error". A stream ("edge.watch") answers many times, each
// with "more":true, and ends with an answer that has neither.
package api

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// Socket is where netd listens.
const Socket = "/run/culvert/api.sock"

// Methods. The types of their params and results stand beside each.
const (
	MethodHealth      = "health"        // -> nothing; answered only by a live reconcile loop
	MethodStatus      = "status"        // -> Status
	MethodInterfaces  = "interfaces"    // -> []Interface
	MethodLeases      = "leases"        // -> []Lease
	MethodPassthrough = "passthrough"   // -> []Session
	MethodCounters    = "counters"      // -> PassthroughCounters
	MethodProtection  = "protection"    // -> Protection
	MethodConnections = "connections"   // ConnectionsParams -> []Connection
	MethodFirewall    = "firewall"      // -> Firewall
	MethodLog         = "log"           // LogParams -> []LogLine
	MethodVersion     = "version"       // -> Version
	MethodSettings    = "settings"      // RevisionParams (0 = running) -> SettingsReply, secrets blanked
	MethodCommit      = "commit"        // CommitParams -> CommitReply
	MethodConfirm     = "confirm"       // Author -> CommitReply
	MethodRollback    = "rollback"      // RollbackParams -> CommitReply
	MethodHistory     = "history"       // -> []Revision
	MethodClaim       = "claim"         // ClaimParams -> Claim; only while unclaimed
	MethodPassword    = "password"      // PasswordParams
	MethodAddKey      = "key.add"       // KeyParams
	MethodRemoveKey   = "key.remove"    // KeyParams
	MethodReboot      = "reboot"        // Author
	MethodPoweroff    = "poweroff"      // Author
	MethodReset       = "factory-reset" // Author
	MethodRestart     = "restart"       // RestartParams
	MethodLoginNote   = "login"         // Author -> LoginNotes: records a login, tells what to show at it
	MethodEdgeWatch   = "edge.watch"    // EdgeHello; stream of EdgeConfig, first one at once
	MethodEdgeStats   = "edge.stats"    // EdgeStats: edge tells netd its DNS counters (for status)
)

// Author is who did something, as the transport knows it, never as typed.
type Author struct {
	Via  string     `json:"via"`            // "serial" or "ssh"
	Addr netip.Addr `json:"addr,omitzero"`  // peer address over SSH
	MAC  string     `json:"mac,omitempty"`  // its hardware address, where known (netd fills it in)
	Key  string     `json:"key,omitempty"`  // SHA256 fingerprint of the SSH key, with its comment
	Conn *Conn      `json:"conn,omitempty"` // the SSH session's TCP connection: tells whether a commit cuts it
}

// Conn is one TCP connection, local address first.
type Conn struct{ Local, Remote netip.AddrPort }

// Error is what a request failed with; Text is for people and complete.
type Error struct {
	Code     string             `json:"code"` // "invalid", "conflict", "denied", "busy", "unknown", "failed", "away" (netd does not answer; the client's own)
	Text     string             `json:"text"`
	Problems []settings.Problem `json:"problems,omitempty"` // with code "invalid"
	Changed  []string           `json:"changed,omitempty"`  // with code "conflict": compare lines of what the other admin changed
	By       string             `json:"by,omitempty"`       // with code "conflict": who and when
}

func (e *Error) Error() string { return e.Text }

// Revision is one commit.
type Revision struct {
	N       int       `json:"n"`
	Time    time.Time `json:"time"`
	Author  Author    `json:"author"`
	Message string    `json:"message,omitempty"`
	State   string    `json:"state"`          // "confirmed", "pending", "failed", "rolled-back"
	Note    string    `json:"note,omitempty"` // why it failed or was rolled back, or who confirmed it
	// ConfirmedBy is who confirmed a commit that waited for it; nil for others.
	ConfirmedBy *Author  `json:"confirmed_by,omitempty"`
	Lines       []string `json:"lines,omitempty"` // what it changed, as compare shows it
}

// SettingsReply is a settings tree and the revision it is. Secrets are "(set)".
type SettingsReply struct {
	Revision int             `json:"revision"`
	Settings json.RawMessage `json:"settings"`
}

// RevisionParams names a revision, 0 is the running one.
type RevisionParams struct {
	N int `json:"n"`
}

// CommitParams asks for a new revision. A secret given as "(set)" keeps its value.
type CommitParams struct {
	Base     int             `json:"base"` // revision the candidate started from; another running one is a conflict
	Settings json.RawMessage `json:"settings,omitempty"`
	// Patch is what differs from the settings of Base (settings.Patched), in
	// place of Settings: there may be thousands of forwards and one of them new,
	// or all. It is the request's body.
	Patch   []byte        `json:"-"`
	Message string        `json:"message,omitempty"`
	Author  Author        `json:"author"`
	Confirm time.Duration `json:"confirm,omitempty"` // > 0: go back unless confirmed in time
	// Preview asks only for the notes and changes nothing: a person must read
	// them before the commit cuts the session.
	Preview bool `json:"preview,omitempty"`
}

// GetBody is for Bodied.
func (p CommitParams) GetBody() []byte { return p.Patch }

// SetBody is for Bodied.
func (p *CommitParams) SetBody(b []byte) { p.Patch = b }

// CommitReply tells what a commit, confirm or rollback led to.
type CommitReply struct {
	Revision  int       `json:"revision"`
	Unchanged bool      `json:"unchanged,omitempty"`
	ConfirmBy time.Time `json:"confirm_by,omitzero"` // pending until then
	// ConfirmIn is the time left at the moment of the reply, 0 when confirmed.
	ConfirmIn time.Duration `json:"confirm_in,omitempty"`
	// Notes are sentences for the person, e.g. that the session may be cut
	// and at which address the router answers then.
	Notes []string `json:"notes,omitempty"`
}

// RollbackParams goes back to the settings of revision N, as a new revision.
type RollbackParams struct {
	N       int    `json:"n"`
	Author  Author `json:"author"`
	Preview bool   `json:"preview,omitempty"` // as in CommitParams
}

// ClaimParams gives an unclaimed router its owner: a password or a key.
type ClaimParams struct {
	Password string `json:"password,omitempty"` // PHC string, hashed by edge
	Key      string `json:"key,omitempty"`      // authorized_keys line
	Author   Author `json:"author"`
}

// Claim tells when, from where and with what the router was claimed.
type Claim struct {
	Time   time.Time `json:"time"`
	Author Author    `json:"author"`
	With   string    `json:"with"` // "password", "key SHA256:..." or "initial settings"
}

// PasswordParams replaces the admin's password.
type PasswordParams struct {
	Hash   string `json:"hash"` // PHC string, argon2id
	Author Author `json:"author"`
}

// KeyParams adds or removes an SSH public key (authorized_keys line; remove
// also takes a fingerprint).
type KeyParams struct {
	Key    string `json:"key"`
	Author Author `json:"author"`
}

// LoginNotes is what a person is told at login.
type LoginNotes struct {
	Claim    *Claim       `json:"claim,omitempty"`
	Problems []string     `json:"problems,omitempty"` // standing problems, one complete sentence each
	Pending  *CommitReply `json:"pending,omitempty"`  // a commit that waits for confirm
}

// Status is `show status`.
type Status struct {
	Hostname string        `json:"hostname"`
	Board    string        `json:"board"`
	Version  string        `json:"version"`
	Uptime   time.Duration `json:"uptime"`
	Time     time.Time     `json:"time"`
	ClockSet bool          `json:"clock_set"`
	Revision int           `json:"revision"`
	Claimed  bool          `json:"claimed"`
	// SerialOpen: the router has an owner, but no password that the serial line
	// could ask for.
	SerialOpen bool      `json:"serial_open,omitempty"`
	WAN        WANStatus `json:"wan"`
	LAN        LANStatus `json:"lan"`
	Memory     Memory    `json:"memory"`
	Conntrack  Fill      `json:"conntrack"`
	DNS        EdgeStats `json:"dns"`
	Services   []Service `json:"services"`
	Problems   []string  `json:"problems,omitempty"` // one complete sentence each
}

// Memory in bytes.
type Memory struct{ Total, Available, Anonymous int64 }

// Fill is a bounded table's use.
type Fill struct{ Used, Max int }

// WANStatus is the Internet side.
type WANStatus struct {
	Up      bool         `json:"up"`
	Mode    string       `json:"mode"`
	Address netip.Prefix `json:"address,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	DNS     []netip.Addr `json:"dns,omitempty"`
	Expires time.Time    `json:"expires,omitzero"`
}

// LANStatus is the home side.
type LANStatus struct {
	Address netip.Prefix `json:"address"`
	Moved   bool         `json:"moved,omitempty"` // moved by itself off the WAN's subnet
	Leases  int          `json:"leases"`
}

// Service is a supervised process.
type Service struct {
	Name     string        `json:"name"`
	State    string        `json:"state"`
	PID      int           `json:"pid,omitempty"`
	Restarts int           `json:"restarts"`
	Since    time.Duration `json:"since"` // for how long it has been in State
	LastExit string        `json:"last_exit,omitempty"`
}

// Interface is a network interface with counters.
type Interface struct {
	Name      string         `json:"name"`
	Role      string         `json:"role"` // "lan", "wan", "lan port", ""
	Up        bool           `json:"up"`
	Carrier   bool           `json:"carrier"`
	MAC       string         `json:"mac"`
	MTU       int            `json:"mtu"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	RxBytes   uint64         `json:"rx_bytes"`
	TxBytes   uint64         `json:"tx_bytes"`
	RxPackets uint64         `json:"rx_packets"`
	TxPackets uint64         `json:"tx_packets"`
	Errors    uint64         `json:"errors"`
}

// Lease is a LAN device.
type Lease struct {
	Addr    netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
	Name    string     `json:"name,omitempty"`
	Expires time.Time  `json:"expires,omitzero"`
	Static  bool       `json:"static,omitempty"`
}

// Session is one VPN tunnel that crosses the router.
type Session struct {
	Protocol string        `json:"protocol"` // "pptp", "l2tp", "ipsec"
	Device   netip.Addr    `json:"device"`
	Name     string        `json:"name,omitempty"` // the device's name
	Server   netip.Addr    `json:"server"`
	Inbound  bool          `json:"inbound,omitempty"` // the server is on the LAN
	IDs      string        `json:"ids"`               // "call 0x1234/0x0001", "spi 0xc0ffee..", "udp 500>500"
	Kind     string        `json:"kind"`              // "control", "data", "ike", "nat-t", "esp"
	State    string        `json:"state"`             // "negotiating", "learning", "up", "idle"
	Owner    string        `json:"owner"`             // how the device is known: "exact", "only device", "copied", "evidence"
	Age      time.Duration `json:"age"`
	// Last is how long ago the last packet was that the kernel timed; nil when
	// it does not tell.
	Last     *time.Duration `json:"last_packet,omitempty"`
	BytesOut uint64         `json:"bytes_out"` // from the device
	BytesIn  uint64         `json:"bytes_in"`  // to the device, 0 with owner "copied"
	PktsOut  uint64         `json:"packets_out"`
	PktsIn   uint64         `json:"packets_in"`
}

// ConnectionsParams filters conntrack.
type ConnectionsParams struct {
	Device netip.Addr `json:"device,omitzero"`
	Limit  int        `json:"limit,omitempty"` // default 200
}

// Connection is one conntrack entry.
type Connection struct {
	Protocol  string         `json:"protocol"`
	Src       netip.AddrPort `json:"src"`
	Dst       netip.AddrPort `json:"dst"`
	ReplySrc  netip.AddrPort `json:"reply_src"`
	ReplyDst  netip.AddrPort `json:"reply_dst"`
	State     string         `json:"state,omitempty"`
	Offloaded bool           `json:"offloaded,omitempty"`
	Bytes     uint64         `json:"bytes"`
	Packets   uint64         `json:"packets"`
	Timeout   time.Duration  `json:"timeout"`
}

// Firewall is the table the kernel holds, as netd last saw it.
type Firewall struct {
	Ruleset []string    `json:"ruleset"` // in nft's syntax, counters included
	Servers []VPNServer `json:"vpn_servers"`
}

// VPNServer is a VPN server on the LAN.
type VPNServer struct {
	Protocol string     `json:"protocol"`         // as in firewall vpn-server
	Device   string     `json:"device"`           // as set: an address or a name
	Address  netip.Addr `json:"address,omitzero"` // of the device
	Ports    []string   `json:"ports"`            // on the WAN's address: "udp 500", "tcp 8443 to 443", "esp"
	InEffect bool       `json:"in_effect"`        // peers on the Internet reach it
	Reason   string     `json:"reason,omitempty"` // why they don't
	Peers    []string   `json:"peers,omitempty"`  // those that passthrough allows; none is all
}

// LogParams asks for the last lines of one service, "" is all, merged by time.
type LogParams struct {
	Service string `json:"service,omitempty"`
	Lines   int    `json:"lines,omitempty"`
}

// LogLine is one line of a service's log.
type LogLine struct {
	Time    time.Time `json:"time"`
	Service string    `json:"service"`
	Text    string    `json:"text"`
}

// Version is `show version`.
type Version struct {
	Culvert string `json:"culvert"`
	Kernel  string `json:"kernel"`
	Go      string `json:"go"`
	Board   string `json:"board"`
}

// EdgeHello is sent by edge when it starts watching.
type EdgeHello struct {
	PID int `json:"pid"`
}

// EdgeConfig is everything edge needs; it is always complete.
type EdgeConfig struct {
	Hostname    string        `json:"hostname"`
	Board       string        `json:"board"`
	LANDevice   string        `json:"lan_device"` // "br-lan"
	LANAddress  netip.Prefix  `json:"lan_address"`
	Upstreams   []netip.Addr  `json:"upstreams,omitempty"`
	CacheSize   int           `json:"cache_size"`
	Names       []Name        `json:"names,omitempty"`
	SSHPort     int           `json:"ssh_port"`
	SSHOnWAN    bool          `json:"ssh_on_wan,omitempty"`
	WANDevice   string        `json:"wan_device"`
	HostKey     []byte        `json:"host_key"` // ed25519 private key, OpenSSH PEM
	Claimed     bool          `json:"claimed"`
	Password    string        `json:"password,omitempty"` // argon2id PHC string
	Keys        []string      `json:"keys,omitempty"`
	ClaimWindow time.Duration `json:"claim_window"` // SSH claiming closes this long after power-on (30 min)
}

// Name is a LAN device's name for DNS.
type Name struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
}

// EdgeStats are edge's counters.
type EdgeStats struct {
	Queries  uint64 `json:"queries"`
	Hits     uint64 `json:"hits"`
	Failures uint64 `json:"failures"`
	Entries  int    `json:"entries"`
}

// RestartParams names a service to end at once (SIGKILL) and start again.
type RestartParams struct {
	Service string `json:"service"`
	Author  Author `json:"author"`
}
