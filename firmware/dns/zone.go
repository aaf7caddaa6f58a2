package dns

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
)

const (
	localTTL       = 30 // seconds; leases come and go
	localNegTTL    = 10 // a device that is just being connected should appear soon
	maxAddrsPerMsg = 16
)

// zone is what the server itself knows: the local zone, the router and the
// names that have no place in the public DNS. All names are lower-case wire
// format.
type zone struct {
	suffix []byte // of the local zone, "\x03lan\x00"; nil: none
	domain string // the router's name
	short  string // its first label alone
	router netip.Addr
	names  map[string][]netip.Addr // full and bare names
	ptr    map[netip.Addr]string
}

// newZone prepares the zone that c describes.
func newZone(c Config, log *slog.Logger) *zone {
	z := &zone{names: make(map[string][]netip.Addr), ptr: make(map[netip.Addr]string), router: c.Router.Unmap()}
	if c.Domain != "" {
		domain, err := packName(c.Domain)
		if err != nil {
			log.Warn("dns: the router has no name: its domain cannot be used", "err", err)
			return z
		}
		z.domain = domain
		z.short = domain[:1+int(domain[0])] + "\x00"
		z.suffix = []byte(domain[1+int(domain[0]):])
		if len(z.suffix) == 1 { // a bare name: its parent would be the whole DNS
			z.suffix = []byte(domain)
		}
	}
	for _, h := range c.Hosts {
		if err := z.add(h); err != nil {
			log.Warn("dns: a host is left out", "err", err)
		}
	}
	if z.router.IsValid() && z.domain != "" {
		z.ptr[z.router] = z.domain
	}
	return z
}

// add enters one host under its full and its bare name.
func (z *zone) add(h Host) error {
	if z.suffix == nil {
		return fmt.Errorf("host %q: there is no local zone to put it in; set the domain", h.Name)
	}
	name, err := packName(h.Name)
	if err != nil {
		return err
	}
	addr := h.Addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return fmt.Errorf("host %q has no address", h.Name)
	}
	label := name[:1+int(name[0])]
	switch rest := name[len(label):]; {
	case rest == "\x00":
	case rest == string(z.suffix):
	default:
		return fmt.Errorf("host %q is not in the local zone: give one label, or a name directly under the zone", h.Name)
	}
	full, bare := label+string(z.suffix), label+"\x00"
	if len(full) > nameMax {
		return fmt.Errorf("host %q: its full name is longer than 255 bytes", h.Name)
	}
	if full == z.domain {
		return nil // nobody but the router has the router's name
	}
	for _, key := range [2]string{full, bare} {
		if len(z.names[key]) < maxAddrsPerMsg {
			z.names[key] = append(z.names[key], addr)
		}
	}
	if _, taken := z.ptr[addr]; !taken {
		z.ptr[addr] = full
	}
	return nil
}

// packName turns text into a lower-case wire name. Only what a host name may
// have is allowed (RFC 1123), and the underscore, which devices use anyway.
func packName(text string) (string, error) {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(text, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return "", fmt.Errorf("name %q: a label must have 1 to 63 characters", text)
		}
		b = append(b, byte(len(label)))
		for i := range len(label) {
			c := lower(label[i])
			if c-'a' >= 26 && c-'0' >= 10 && c != '-' && c != '_' {
				return "", fmt.Errorf("name %q: only letters, digits and hyphens are allowed", text)
			}
			b = append(b, c)
		}
	}
	if len(b) >= nameMax {
		return "", fmt.Errorf("name %q is longer than 253 characters", text)
	}
	return string(append(b, 0)), nil
}

// answer appends the response to q when it is the server's own to give, and
// returns nil when it is not. local is the address that q was sent to.
func (z *zone) answer(dst []byte, q *query, local netip.Addr) []byte {
	if apex := z.apex(q); apex >= 0 {
		return z.answerName(dst, q, local, apex)
	}
	if q.labels > 0 {
		tld := q.name()[q.last:]
		switch string(tld) {
		case "\x04arpa\x00":
			if resp := z.answerReverse(dst, q, local); resp != nil {
				return resp
			}
		case "\x09localhost\x00": // RFC 6761 section 6.3
			switch q.qtype {
			case typeA:
				return appendAddr(q.begin(dst), netip.AddrFrom4([4]byte{127, 0, 0, 1}))
			case typeAAAA:
				return appendAddr(q.begin(dst), netip.IPv6Loopback())
			}
			return q.negative(dst, rcodeOK, q.last)
		case "\x05local\x00", "\x05onion\x00", "\x07invalid\x00": // RFC 6762, 7686, 6761
			return q.negative(dst, rcodeNXDomain, q.last)
		}
	}
	if q.labels == 1 {
		if _, ok := z.names[string(q.name())]; ok || string(q.name()) == z.short {
			return z.answerName(dst, q, local, 0)
		}
		if q.qtype == typeA || q.qtype == typeAAAA {
			// Bare names are the LAN's: none is sent out. Not NXDOMAIN, which
			// would deny everything under a real top-level domain (RFC 8020).
			return q.negative(dst, rcodeOK, 0)
		}
	}
	if q.qtype == typeANY {
		return appendHINFO(q.begin(dst))
	}
	return nil
}

// apex returns the offset in q's name at which the local zone starts, -1 when q
// is not in it.
func (z *zone) apex(q *query) int {
	at := q.nameLen - len(z.suffix)
	if z.suffix == nil || at < 0 || !bytes.HasSuffix(q.name(), z.suffix) {
		return -1
	}
	for i := 0; i <= at; i += 1 + int(q.buf[i]) { // it must start at a label
		if i == at {
			return at
		}
	}
	return -1
}

// answerName answers for a name of the local zone, or a bare one.
func (z *zone) answerName(dst []byte, q *query, local netip.Addr, apex int) []byte {
	name := q.name()
	addrs, ok := z.names[string(name)]
	if string(name) == z.domain || string(name) == z.short {
		r := z.router
		if !r.IsValid() {
			r = local
		}
		one := [1]netip.Addr{r}
		addrs, ok = one[:], true
	}
	if !ok {
		if apex == 0 {
			return q.negative(dst, rcodeOK, 0) // the zone itself
		}
		return q.negative(dst, rcodeNXDomain, apex)
	}
	start := len(dst)
	dst = q.begin(dst)
	empty := len(dst)
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		if a.Is4() && (q.qtype == typeA || q.qtype == typeANY) || !a.Is4() && (q.qtype == typeAAAA || q.qtype == typeANY) {
			dst = appendAddr(dst, a)
		}
	}
	if len(dst) == empty {
		return q.negative(dst[:start], rcodeOK, apex)
	}
	return dst
}

// answerReverse answers for in-addr.arpa and ip6.arpa: hosts that are known,
// and the ranges whose names must not leave the site (RFC 6303, 7793).
func (z *zone) answerReverse(dst []byte, q *query, local netip.Addr) []byte {
	if bytes.HasSuffix(q.name(), []byte("\x04home\x04arpa\x00")) {
		return q.negative(dst, rcodeNXDomain, q.nameLen-11) // RFC 8375
	}
	r, ok := parseReverse(q)
	if !ok {
		return nil
	}
	if addr, full := r.addr(); full {
		name, known := z.ptr[addr]
		switch {
		case known:
		case z.domain != "" && !z.router.IsValid() && addr == local:
			name, known = z.domain, true
		case addr.IsLoopback():
			name, known = "\x09localhost\x00", true
		}
		if known && (q.qtype == typePTR || q.qtype == typeANY) {
			return appendPTR(q.begin(dst), name)
		}
		if known {
			return q.negative(dst, rcodeOK, 0)
		}
	}
	if !r.reserved() {
		return nil
	}
	if r.exact && !r.complete() {
		return q.negative(dst, rcodeOK, 0) // an apex, or hosts may be below it (RFC 8020)
	}
	return q.negative(dst, rcodeNXDomain, r.start)
}

// begin appends header and question of an authoritative response.
func (q *query) begin(dst []byte) []byte {
	dst = append(dst, q.head...)
	clear(dst[6:headerLen])
	dst[2] = flagQR | flagAA | q.head[2]&flagRD
	dst[3] = flagRA | q.head[3]&flagCD
	return dst
}

// negative says that there is no such name (rcodeNXDomain) or no such type
// (rcodeOK), with the SOA that RFC 2308 wants; apex is where in the question's
// name its zone starts.
func (q *query) negative(dst []byte, rcode byte, apex int) []byte {
	dst = q.begin(dst)
	dst[3] |= rcode
	dst[9] = 1
	zone := uint16(0xc000 | (headerLen + apex))
	dst = append16(dst, zone)
	dst = append(dst, 0, typeSOA, 0, classIN)
	dst = append32(dst, localNegTTL)
	dst = append(dst, 0, 38)
	dst = append16(dst, zone) // MNAME; RNAME as in RFC 6303 section 3
	dst = append(dst, "\x06nobody\x07invalid\x00"...)
	dst = append32(dst, 1)
	dst = append32(dst, 3600)
	dst = append32(dst, 1200)
	dst = append32(dst, 604800)
	return append32(dst, localNegTTL)
}

// appendRecord adds one answer with the question's name; rdata follows.
func appendRecord(dst []byte, rrtype uint16, ttl uint32, size int) []byte {
	dst[7]++
	dst = append(dst, 0xc0, headerLen)
	dst = append16(dst, rrtype)
	dst = append16(dst, classIN)
	dst = append32(dst, ttl)
	return append16(dst, uint16(size))
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	if a.Is4() {
		b := a.As4()
		return append(appendRecord(dst, typeA, localTTL, 4), b[:]...)
	}
	b := a.As16()
	return append(appendRecord(dst, typeAAAA, localTTL, 16), b[:]...)
}

func appendPTR(dst []byte, name string) []byte {
	return append(appendRecord(dst, typePTR, localTTL, len(name)), name...)
}

// appendHINFO is the short answer to ANY, which would else be a favourite of
// amplification attacks (RFC 8482 section 4.2).
func appendHINFO(dst []byte) []byte {
	return append(appendRecord(dst, typeHINFO, 3600, 9), "\x07RFC8482\x00"...)
}
