package passthrough

import (
	"slices"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// WireGuard and OpenVPN are spoken at any port, so they are known by the shape
// of the packets that begin a session. The shapes are narrow: whatever else a
// device sends must not look like one.
//
// The rules see a handshake when the flowtable has not got the flow. A flow that
// begins with a packet of a session (its conntrack entry was ended, or the
// router restarted) is refused like a handshake. One that begins as something
// else and turns to a tunnel later, as behind a hole puncher, stays out of the
// flowtable: see Carried.

// Names in the table.
const (
	udpHandshakes = "udp_handshakes"
	tcpHandshakes = "tcp_handshakes"
	udpResets     = "openvpn_udp" // OpenVPN's, by their length
	tcpResets     = "openvpn_tcp"
	watchedUDP    = "watched_udp"
	watchedTCP    = "watched_tcp"
	tunnelPorts   = "tunnel_ports"
	refusedTunnel = "refused_tunnel"
)

func hasHandshake(name string) bool { return name == "wireguard" || name == "openvpn" }

// refusal is what is done about a handshake of a protocol that is off, or on
// for some. udp and tcp are the last of its rules.
type refusal struct {
	name, why string
	udp, tcp  rs.Expr
	limit     *limit // nil: off for all
}

func refusals(p settings.Passthrough, all []limit) (list []refusal) {
	for _, x := range p.Protocols() {
		if !hasHandshake(x.Name) {
			continue
		}
		i := slices.IndexFunc(all, func(l limit) bool { return l.name == x.Name })
		switch {
		case i < 0:
			list = append(list, refusal{x.Name, "passthrough " + x.Name + " off", rs.AdminProhibited, rs.TCPReset, nil})
		case all[i].limited():
			check := rs.Verdict{Kind: rs.Jump, Chain: all[i].chainName()}
			list = append(list, refusal{x.Name, "passthrough " + x.Name + " devices and servers", check, check, &all[i]})
		}
	}
	return list
}

// handshakePart adds what refuses handshakes.
func handshakePart(part *Part, s *settings.Settings, all []limit, n Network) {
	list := refusals(s.Passthrough, all)
	if len(list) == 0 {
		return
	}
	part.Sets = append(part.Sets, otherPorts(s.Passthrough, list))
	udp, tcp := rs.Chain{Name: udpHandshakes}, rs.Chain{Name: tcpHandshakes}
	data := otherTunnels()
	for _, r := range list {
		if r.limit != nil && r.name == "openvpn" {
			part.Chains = append(part.Chains, rs.Chain{Name: refusedTunnel, Rules: []rs.Rule{
				rs.R(r.why, rs.SYN{}, rs.AdminProhibited), rs.R(r.why, rs.L4{Protocol: rs.TCP}, rs.TCPReset), rs.R(r.why, rs.AdminProhibited)}})
		}
		if r.name == "wireguard" {
			udp.Rules = append(udp.Rules, wireGuard(r)...)
			data = append(data, wireGuardData(r))
			continue
		}
		u, resets := openVPNUDP(r)
		udp.Rules = append(udp.Rules, u...)
		data = append(data, openVPNData(r)...)
		t, tresets := openVPNTCP(r)
		tcp.Rules = append(tcp.Rules, t...)
		part.Chains = append(part.Chains, resets, tresets)
	}
	udp.Rules = append(udp.Rules, data...)
	const why = "handshakes of refused tunnels"
	part.Chains = append(part.Chains, udp)
	part.Refuse = append(part.Refuse, rs.R(why, rs.L4{Protocol: rs.UDP}, rs.Verdict{Kind: rs.Jump, Chain: udp.Name}))
	if len(tcp.Rules) > 0 {
		part.Chains = append(part.Chains, tcp)
		part.Refuse = append(part.Refuse, rs.R(why, rs.L4{Protocol: rs.TCP}, rs.Verdict{Kind: rs.Jump, Chain: tcp.Name}))
	}
	if s.Firewall.Offload {
		watch(part, list, n)
	}
}

// inUDP matches bytes of what UDP carries; the length is that of all of it.
func inUDP(off, n int, mask, value uint64) rs.Payload {
	return rs.Payload{Offset: 8 + off, Len: n, Mask: mask, Value: value}
}

// udpOf matches UDP that carries so many bytes.
func udpOf(least, most int) rs.UDPLength { return rs.UDPLength{Min: 8 + least, Max: 8 + most} }

// wireGuard has the messages of https://www.wireguard.com/protocol/: a type,
// three zeros, and a fixed length (148, 92 and 64 bytes). A message of data has
// a header of 16 bytes, a packet padded to 16 and a tag of 16.
func wireGuard(r refusal) []rs.Rule {
	message := func(kind uint64, bytes int) rs.Rule {
		return rs.R(r.why, udpOf(bytes, bytes), inUDP(0, 4, 0, kind<<24), r.udp)
	}
	return []rs.Rule{
		message(1, 148), // handshake initiation
		message(2, 92),  // handshake response
		message(3, 64),  // cookie reply
	}
}

// Data is refused only where a flow begins with it: what it looks like is not
// rare enough to refuse it everywhere.

func wireGuardData(r refusal) rs.Rule {
	return rs.R(r.why, rs.New, rs.UDPBlocks{Size: 16}, inUDP(0, 4, 0, 4<<24), r.udp)
}

// openVPNData is that of a peer ID below 65536, which servers give out, and of
// the one that two peers agree on (src/openvpn/ssl_ncp.c).
func openVPNData(r refusal) []rs.Rule {
	data := func(peer rs.Expr) rs.Rule { return rs.R(r.why, rs.New, udpOf(leastDataV2, 65535-8), peer, r.udp) }
	return []rs.Rule{
		data(inUDP(0, 2, (0xff&^keyID)<<8|0xff, dataV2<<8)),
		data(inUDP(0, 4, (0xff&^keyID)<<24|0xffffff, dataV2<<24|0x76706e)),
	}
}

// Opcodes of OpenVPN in the upper 5 bits of the first byte, with the key ID in
// the lower 3: src/openvpn/ssl_pkt.h.
const (
	keyID       = 0x07
	softReset   = 3 << 3  // P_CONTROL_SOFT_RESET_V1: a new key, an hour after the last by default
	resetV2     = 7 << 3  // P_CONTROL_HARD_RESET_CLIENT_V2
	dataV2      = 9 << 3  // P_DATA_V2
	resetV3     = 10 << 3 // P_CONTROL_HARD_RESET_CLIENT_V3: with tls-crypt-v2
	sessionID   = 8       // bytes, after the opcode
	replayID    = 8       // of tls-auth and tls-crypt: a count of 4 bytes and the time
	noAcks      = 5       // a reset has no acknowledgements (a byte, 0), and it is packet 0 (4 bytes)
	cryptTag    = 32      // of tls-crypt: HMAC-SHA256
	plainReset  = 1 + sessionID + noAcks
	cryptReset  = 1 + sessionID + replayID + cryptTag + noAcks
	leastV3     = cryptReset + cryptTag + 256 + 2 // tls-crypt-v2 appends the client's key, wrapped, without metadata
	mostV3      = cryptReset + 1024               // TLS_CRYPT_V2_MAX_WKC_LEN
	leastDataV2 = 24                              // opcode and peer ID, packet ID, tag: OpenVPN 2.4 and later
)

// authTags are the HMACs of tls-auth, by the digest of --auth: MD5, SHA1,
// SHA224, SHA256, SHA384, SHA512.
var authTags = [...]int{16, 20, 28, 32, 48, 64}

// resets has the rules for resets by their length; at matches bytes of the
// packet, and length what it carries.
func resets(r refusal, last rs.Expr, at func(off, n int, mask, value uint64) rs.Expr, length func(int) rs.Expr) (rules []rs.Rule) {
	add := func(bytes int, e ...rs.Expr) {
		rules = append(rules, rs.R(r.why, append(append([]rs.Expr{length(bytes)}, e...), last)...))
	}
	add(plainReset, at(1+sessionID, noAcks, 0, 0))
	for _, tag := range authTags {
		// The count of packets is below 65536.
		add(plainReset+tag+replayID, at(1+sessionID+tag, 2, 0, 0), at(1+sessionID+tag+replayID, noAcks, 0, 0))
	}
	// What tls-crypt encrypts can't be looked at.
	add(cryptReset, at(1+sessionID, 2, 0, 0))
	return rules
}

func openVPNUDP(r refusal) ([]rs.Rule, rs.Chain) {
	at := func(off, n int, mask, value uint64) rs.Expr { return inUDP(off, n, mask, value) }
	check := rs.Verdict{Kind: rs.Jump, Chain: udpResets}
	return []rs.Rule{
		rs.R(r.why, at(0, 1, 0, resetV2), check),
		rs.R(r.why, at(0, 1, 0xff&^keyID, softReset), check),
		// The count begins at 1, or 0x0f000001: EARLY_NEG_START of ssl_pkt.h.
		rs.R(r.why, udpOf(leastV3, mostV3), at(0, 1, 0, resetV3), at(1+sessionID, 3, 0xf0ffff, 0), r.udp),
	}, rs.Chain{Name: udpResets, Rules: resets(r, r.udp, at, func(n int) rs.Expr { return udpOf(n, n) })}
}

// openVPNTCP: over TCP each packet has its length before it, in two bytes. It
// begins a segment, since nothing else is sent before the other end answers.
func openVPNTCP(r refusal) ([]rs.Rule, rs.Chain) {
	at := func(off, n int, mask, value uint64) rs.Expr {
		return rs.Payload{Base: rs.Inner, Offset: 2 + off, Len: n, Mask: mask, Value: value}
	}
	check := rs.Verdict{Kind: rs.Jump, Chain: tcpResets}
	return []rs.Rule{
			rs.R(r.why, at(0, 1, 0, resetV2), check),
			rs.R(r.why, at(0, 1, 0xff&^keyID, softReset), check),
			// mostV3 is 0x436: at most 3 bits of the length's first byte.
			rs.R(r.why, rs.Payload{Base: rs.Inner, Len: 1, Mask: 0xf8}, at(0, 1, 0, resetV3), at(1+sessionID, 3, 0xf0ffff, 0), r.tcp),
		}, rs.Chain{Name: tcpResets, Rules: resets(r, r.tcp, at, func(n int) rs.Expr {
			return rs.Payload{Base: rs.Inner, Len: 2, Value: uint64(n)}
		})}
}

// otherPorts are those of the tunnels that are not refused.
func otherPorts(p settings.Passthrough, list []refusal) rs.Set {
	ports := rs.Set{Name: tunnelPorts, Key: []rs.Type{rs.InetProto, rs.InetService}}
	for _, x := range p.Protocols() {
		if slices.ContainsFunc(list, func(r refusal) bool { return r.name == x.Name }) {
			continue
		}
		for _, y := range x.Looked() {
			if y.Protocol == settings.UDP {
				ports.Elements = append(ports.Elements, rs.Element{Key: rs.Cat(rs.Protocol(rs.UDP), rs.PortNumber(y.Port)), Why: "passthrough " + x.Name})
			}
		}
	}
	ports.Sort()
	return ports
}

// otherTunnels are looked at no further: an SPI of ESP in UDP may look like
// data, and would for as long as the SA lives.
func otherTunnels() []rs.Rule {
	back := rs.Verdict{Kind: rs.Return}
	return []rs.Rule{
		rs.R("other tunnels", rs.In{Key: rs.ProtocolPort(), Set: tunnelPorts}, back),
		rs.R("other tunnels", rs.In{Key: rs.Fields{rs.FieldProtocol, rs.FieldSport}, Set: tunnelPorts}, back),
	}
}

// watch keeps out of the flowtable what may yet turn to a refused handshake:
// of UDP what does not tell that it is something else, of TCP what the side
// that was called has not answered yet. OpenVPN's client speaks first.
func watch(part *Part, list []refusal, n Network) {
	back := rs.Verdict{Kind: rs.Return}
	// RFC 9000 17.3.1: a packet of a connection that is up has 01 before the
	// other bits.
	const http3, quic = "HTTP/3", 0x40
	udp := rs.Chain{Name: watchedUDP, Rules: append(otherTunnels(),
		rs.R(http3, rs.Dport{Protocol: rs.UDP, Port: 443}, inUDP(0, 1, 0xc0, quic), back),
		rs.R(http3, rs.Sport{Protocol: rs.UDP, Port: 443}, inUDP(0, 1, 0xc0, quic), back),
	)}
	tcp := rs.Chain{Name: watchedTCP, Rules: []rs.Rule{rs.R("not OpenVPN", rs.Answers{}, rs.PSH{}, back)}}
	watches := func(c *rs.Chain, r refusal) {
		if r.limit == nil {
			c.Rules = append(c.Rules, rs.R(r.why, accept))
		} else {
			c.Rules = append(c.Rules, r.limit.others(n, accept)...)
		}
	}
	for _, r := range list {
		if r.limit != nil {
			watches(&udp, r)
		}
		if r.name == "openvpn" {
			watches(&tcp, r)
		}
	}
	// Nothing is looked at after what is off for all.
	if i := slices.IndexFunc(list, func(r refusal) bool { return r.limit == nil }); i >= 0 {
		watches(&udp, list[i])
	}
	jump := func(protocol uint8, c rs.Chain) {
		part.Chains = append(part.Chains, c)
		part.Carried = append(part.Carried, rs.R("handshakes of refused tunnels", rs.L4{Protocol: protocol}, rs.Verdict{Kind: rs.Jump, Chain: c.Name}))
	}
	jump(rs.UDP, udp)
	if len(tcp.Rules) > 1 {
		jump(rs.TCP, tcp)
	}
}
