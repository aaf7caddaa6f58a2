package diagnose

import (
	"bytes"
	"crypto"
	_ "crypto/md5" // natHashes
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
)

// IKE's exchanges, of RFC 7296 3.1 and RFC 2408 3.1.
const (
	mainMode   = 2
	aggressive = 4
	quickMode  = 32
	saInit     = 34
	ikeAuth    = 35
)

var exchanges = map[byte]string{mainMode: "Main Mode", aggressive: "Aggressive Mode", 5: "Informational", quickMode: "Quick Mode",
	saInit: "IKE_SA_INIT", ikeAuth: "IKE_AUTH", 36: "CREATE_CHILD_SA", 37: "INFORMATIONAL"}

// certificateBytes is what a message of the exchange that identifies the ends
// is longer than when it brings a certificate; without one it has about 300.
const certificateBytes = 600

// message is IKE's header.
type message struct {
	version, exchange, flags byte
	first                    bool // the responder has not spoken yet
	next                     byte // the first payload
	clear                    bool
	payloads                 []byte // may be cut
	spis                     []byte
	length                   uint32
}

func ikeMessage(b []byte) (message, bool) {
	if len(b) < 28 {
		return message{}, false
	}
	m := message{version: b[17] >> 4, exchange: b[18], flags: b[19], first: binary.BigEndian.Uint64(b[8:]) == 0, next: b[16],
		payloads: b[28:], spis: b[:16], length: binary.BigEndian.Uint32(b[24:])}
	m.clear = m.version == 1 && m.flags&1 == 0 || m.version == 2 && m.exchange == saInit
	return m, m.version == 1 || m.version == 2
}

// long tells whether an encrypted message brings a certificate; such a one may
// come in fragments of its own (RFC 7383 2.5, and payload 132 of IKEv1).
func (m message) long() bool {
	switch {
	case m.clear:
		return false
	case m.version == 1 && m.next == 132:
		return true
	case m.version == 2 && m.next == 53 && len(m.payloads) >= 8:
		return binary.BigEndian.Uint16(m.payloads[6:]) > 1
	}
	return m.length > certificateBytes
}

// each goes through the payloads of a message in the clear, RFC 7296 3.2.
func (m message) each(take func(kind byte, body []byte)) {
	kind, b := m.next, m.payloads
	for m.clear && kind != 0 && len(b) >= 4 {
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return
		}
		take(kind, b[4:n])
		kind, b = b[0], b[n:]
	}
}

// ike reads a message.
func (f *watched) ike(b []byte, in bool) {
	m, ok := ikeMessage(b)
	if !ok {
		return
	}
	if !in {
		f.Sent = exchanges[m.exchange]
	}
	f.Called = f.Called || in && m.first
	f.IKEv1 = f.IKEv1 || m.version == 1
	switch {
	case m.version == 1:
		f.Authenticated = f.Authenticated || in && m.exchange == quickMode
		f.Certificates = f.Certificates || m.exchange == mainMode && m.long()
	default:
		f.Authenticated = f.Authenticated || in && m.exchange == ikeAuth && m.flags&0x20 != 0 // a response
		f.Certificates = f.Certificates || m.exchange == ikeAuth && m.long()
	}
	m.each(func(kind byte, body []byte) {
		switch {
		case m.version == 1 && kind == 7, m.version == 2 && kind == 38: // a request for certificates
			f.Certificates = true
		case m.first && m.version == 1 && kind == 13: // a vendor ID
			f.Windows = f.Windows || windows(body)
		}
	})
}

// windowsIDs are the vendor IDs that Windows begins IKEv1 with: "MS NT5
// ISAKMPOAKLEY", which a version follows, and "MS-Negotiation Discovery Capable"
// ([MS-IKEE] 1.7).
var windowsIDs = []string{"1e2b516905991c7d7c96fcbfb587e461", "fb1de3cdf341b7ea16b7e5be0855f120"}

func windows(vendor []byte) bool {
	for _, id := range windowsIDs {
		want, _ := hex.DecodeString(id)
		if bytes.HasPrefix(vendor, want) {
			return true
		}
	}
	return false
}

// natSeen is what the server's NAT detection (RFC 7296 2.23, RFC 3947 3.2) tells:
// each end sends hashes of its own address and port and of those that it sees
// the other at.
type natSeen struct{ server, client bool }

// look takes a packet of the server as it comes to the WAN.
func (n *natSeen) look(p packet) {
	b := p.inner()
	if p.sport == 4500 && len(b) >= 4 {
		b = b[4:] // the non-ESP marker
	}
	m, ok := ikeMessage(b)
	if !ok {
		return
	}
	var its, ours [][]byte
	m.each(func(kind byte, body []byte) {
		switch {
		case m.version == 2 && kind == 41 && len(body) >= 4 && body[1] == 0:
			switch binary.BigEndian.Uint16(body[2:]) {
			case 16388: // NAT_DETECTION_SOURCE_IP
				its = append(its, body[4:])
			case 16389: // NAT_DETECTION_DESTINATION_IP
				ours = append(ours, body[4:])
			}
		case m.version == 1 && (kind == 20 || kind == 130): // NAT-D, and that of the drafts: first where the message goes to
			if ours == nil {
				ours = append(ours, body)
			} else {
				its = append(its, body)
			}
		}
	})
	n.server = differs(m.spis, p.src, p.sport, its, n.server)
	n.client = differs(m.spis, p.dst, p.dport, ours, n.client)
}

// natHashes are those of NAT detection, known by their lengths: IKEv1 takes what
// was negotiated (RFC 3947 3.2), IKEv2 SHA-1 (RFC 7296 2.23).
var natHashes = [...]crypto.Hash{crypto.MD5, crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}

// differs tells whether no hash is that of the address and port; without
// hashes, what was known stays.
func differs(spis []byte, a netip.Addr, port uint16, hashes [][]byte, known bool) bool {
	data := binary.BigEndian.AppendUint16(append(bytes.Clone(spis), a.AsSlice()...), port)
	some := false
	for _, h := range hashes {
		i := slices.IndexFunc(natHashes[:], func(f crypto.Hash) bool { return f.Size() == len(h) })
		if i < 0 {
			continue
		}
		want := natHashes[i].New()
		want.Write(data)
		if bytes.Equal(h, want.Sum(nil)) {
			return false
		}
		some = true
	}
	return some || known
}
