// Package diagnose tells why a VPN of a LAN device does not come up: from what
// was seen of its packets to a sentence that names the cause and what to do.
// It is pure; netd sees.
package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
)

// Part is a kind of packets that a VPN consists of.
type Part string

// The parts, as people read them.
const (
	Control Part = "tcp 1723" // of PPTP, RFC 2637
	GRE     Part = "gre"
	L2TP    Part = "udp 1701"
	IKE     Part = "udp 500"
	NATT    Part = "udp 4500" // IKE and ESP in UDP, RFC 3948
	ESP     Part = "esp"
	AH      Part = "ah"
	SSTP    Part = "tcp 443" // TLS, and so any HTTPS too
	// These two are known by their first packets, whatever their port.
	OpenVPN   Part = "openvpn"
	WireGuard Part = "wireguard"
)

// Protocols are those that can be diagnosed, by the names of their switches.
var Protocols = []string{"pptp", "l2tp", "ipsec", "sstp", "openvpn", "wireguard"}

// protocolNames are they as people write them.
var protocolNames = map[string]string{"pptp": "PPTP", "l2tp": "L2TP", "ipsec": "IPsec", "sstp": "SSTP", "openvpn": "OpenVPN", "wireguard": "WireGuard"}

// Protocol is the switch that a part belongs to.
func (p Part) Protocol() string {
	switch p {
	case Control, GRE:
		return "pptp"
	case L2TP:
		return "l2tp"
	case SSTP:
		return "sstp"
	case OpenVPN, WireGuard:
		return string(p)
	}
	return "ipsec"
}

// text is the part in a sentence.
func (p Part) text() string {
	if name := protocolNames[string(p)]; name != "" {
		return name
	}
	return strings.ToUpper(string(p))
}

// Of returns the part that an IP protocol and the server's port are.
func Of(protocol uint8, port uint16) (Part, bool) {
	switch {
	case protocol == 6 && port == 1723:
		return Control, true
	case protocol == 17 && port == 1701:
		return L2TP, true
	case protocol == 17 && port == 500:
		return IKE, true
	case protocol == 17 && port == 4500:
		return NATT, true
	case protocol == 6 && port == 443:
		return SSTP, true
	case (protocol == 6 || protocol == 17) && port == 1194:
		return OpenVPN, true
	case protocol == 17 && port == 51820:
		return WireGuard, true
	case protocol == 47:
		return GRE, true
	case protocol == 50:
		return ESP, true
	case protocol == 51:
		return AH, true
	}
	return "", false
}

// Count is what went one way.
type Count struct{ Packets, Bytes uint64 }

// Flow is what was seen of one part between the device and the server.
type Flow struct {
	Part      Part
	Ports     string
	Out, In   Count         // from and to the device, as it sends and gets them
	Uncounted bool          // the device sent some; nothing counts these, nor their answers
	Age       time.Duration // since the first packet
	Last      time.Duration // since the last one; 0 also when nothing tells
	// What follows is known of watched packets only.
	Watched       bool
	Called        bool           // the server began: it calls a VPN server that the device is
	Sent          string         // what the device sent last, as the protocol's RFC calls it
	Held          bool           // nothing of what the device sent left at the WAN
	Arrived       uint64         // packets of the server at the WAN, whoever they are for
	Stray         uint64         // answers at the WAN that came from elsewhere than was called:
	StrayFrom     netip.AddrPort // from here; port 0 where the protocol has none
	DataOut       uint64         // of the tunnel: PPP's payload, and its last Acks; ESP in UDP
	DataIn        uint64
	Sizes         Sizes
	Reset         bool   // TCP: the server closed what it had not opened
	Closed        bool   // TCP: one end closed what was open
	Alert         string // TLS: who ended the handshake, and why
	LoginRefused  bool   // PPP: CHAP or PAP failure
	IKEv1         bool   // IKE of version 1
	Windows       bool   // IKE: who began it is Windows
	Certificates  bool   // IKE: certificates were asked for or sent
	ServerNAT     bool   // IKE: the server's own address is not the one that was called
	ClientNAT     bool   // IKE: the server sees another address than the WAN's
	Authenticated bool   // IKE: the server answered the exchange that ends the negotiation
	Unreachable   string // who said in ICMP that the packets can't go on, and why
}

// Sizes tell whether it is their size that packets of a tunnel get lost by.
// Those that came so close behind each other that nobody knows which one was
// answered are not among them.
type Sizes struct {
	Since         time.Duration // since the first packet
	Big           uint64        // packets of the device of bigPacket bytes and more, answered or not
	BigLost       uint64        // of them those that nothing came back after
	BigAnswered   uint64
	SmallAnswered uint64
	Lost, Passed  uint64        // bytes: the least that was lost of the big ones, the most that was answered
	Losing        time.Duration // since the first that was lost
	MTU           int           // what somebody said in ICMP that fits, 0: nobody did
	MTUFrom       netip.Addr
	Oversize      uint64 // packets that were larger all the same, a second later and more
}

// Denied is a protocol that is on, but not for this device or this server.
type Denied struct {
	Protocol, List string // the setting: "devices" or "servers"
	Why            string // where that does not tell; may be empty
}

// Seen is everything that a diagnosis is made of.
type Seen struct {
	Device     netip.Addr
	Name       string // the device's, may be empty
	Server     netip.Addr
	ServerName string
	Protocol   string // asked for; may be empty

	WAN        netip.Addr // invalid: none
	WANProblem string     // why there is none, or what is wrong with it
	Off        []string   // switches that are off
	Denied     []Denied
	ClockSet   bool
	Others     []string // other devices that talk IPsec to the server, as people know them
	Bound      bool     // it is known which of the server's native ESP is the device's
	CopyOff    bool     // native IPsec with a server is for one device at a time
	Elsewhere  []string // VPNs of the device to other servers: "pptp to 198.51.100.7"
	Flows      []Flow
	Watched    time.Duration // 0: only the last attempt was looked at
}

// Merge puts what was watched in the place of what was known before. Of an
// older attempt only a control connection that still stands counts, and how
// long a flow has been there.
func Merge(known, watched []Flow) []Flow {
	live := map[string]bool{}
	for _, f := range watched {
		live[f.Part.Protocol()] = true
	}
	out := slices.Clone(watched)
	for _, f := range known {
		i := slices.IndexFunc(out, func(w Flow) bool { return w.Part == f.Part })
		switch {
		case i >= 0:
			out[i].Age = max(out[i].Age, f.Age)
		case f.Part == Control || !live[f.Part.Protocol()]:
			out = append(out, f)
		}
	}
	return out
}

// verdict is what a rule found.
type verdict struct {
	cause, text, fix string
	settled          bool
}

// Judge names the cause.
func Judge(s Seen) api.Diagnosis {
	c := &judge{Seen: s, protocol: s.tried()}
	v := c.verdict()
	d := api.Diagnosis{
		Device: s.Device, Name: s.Name, Server: s.Server, ServerName: s.ServerName, Protocol: c.protocol,
		Settled: v.settled, Cause: v.cause, Text: v.text, Fix: v.fix, Watched: s.Watched, Evidence: []api.Evidence{},
	}
	if d.Protocol == "" {
		d.Protocol = s.Protocol
	}
	for _, f := range s.Flows {
		d.Evidence = append(d.Evidence, api.Evidence{
			Part: string(f.Part), Ports: f.Ports, PacketsOut: f.Out.Packets, BytesOut: f.Out.Bytes, PacketsIn: f.In.Packets, BytesIn: f.In.Bytes,
			Uncounted: f.Uncounted, Age: f.Age, Last: f.Last, Watched: f.Watched,
		})
	}
	switch v.cause {
	case Up, NoWAN, Off, NotAllowed:
	default:
		d.Hints = c.hints(v)
	}
	return d
}

// tried is the protocol that the device tried last, "" when it tried none. What
// goes to TCP 443 counts when there is nothing else: a VPN server may well have
// a web page.
func (s *Seen) tried() string {
	var best *Flow
	for i := range s.Flows {
		f := &s.Flows[i]
		if f.Out.Packets == 0 && !f.Uncounted && !f.Called || !s.wanted(f.Part.Protocol()) {
			continue
		}
		newer := best != nil && (f.Watched && !best.Watched || f.Watched == best.Watched && f.Age < best.Age)
		if best == nil || best.Part == SSTP && f.Part != SSTP || newer && (f.Part != SSTP || best.Part == SSTP) {
			best = f
		}
	}
	if best == nil {
		return ""
	}
	return best.Part.Protocol()
}

// wanted tells whether the protocol is one asked for. L2TP is mostly L2TP in
// IPsec (RFC 3193), of which only the IPsec is to be seen.
func (s *Seen) wanted(protocol string) bool {
	return s.Protocol == "" || s.Protocol == protocol || s.Protocol == "l2tp" && protocol == "ipsec"
}

// asked is the server as it was asked for.
func (c *judge) asked() string {
	if c.ServerName != "" {
		return c.ServerName
	}
	return c.Server.String()
}

// hints are what may contribute.
func (c *judge) hints(v verdict) []string {
	var hs []string
	if v.settled && c.Watched == 0 {
		hs = append(hs, fmt.Sprintf("This is of the last attempt. To watch a new one: diagnose vpn %s %s live", c.device(), c.asked()))
	}
	switch {
	case v.cause == CGNAT || v.cause == DoubleNAT:
	case cgnat.Contains(c.WAN):
		hs = append(hs, fmt.Sprintf("The WAN address %s is shared by the provider's customers (carrier-grade NAT, RFC 6598), whose NAT may not pass GRE or ESP: prefer a VPN with UDP, or ask the provider for a public address.", c.WAN))
	case c.WAN.IsPrivate():
		hs = append(hs, fmt.Sprintf("The WAN address %s is a private one, so another router with NAT is in front of this one: it has to pass the VPN too, or work as a bridge.", c.WAN))
	}
	if !c.ClockSet && v.cause != Clock {
		hs = append(hs, "The router's clock is not set by NTP; if the device's clock is wrong too, certificates fail.")
	}
	if len(c.Elsewhere) > 0 && v.cause == NothingSent {
		hs = append(hs, c.device()+" talks to other servers: "+strings.Join(c.Elsewhere, ", ")+". Perhaps the server's name has several addresses.")
	}
	return hs
}

// cgnat is the shared address space of RFC 6598.
var cgnat = netip.MustParsePrefix("100.64.0.0/10")
