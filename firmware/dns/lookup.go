package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// What a name server says of a name without addresses.
var (
	ErrNoName    = errors.New("there is no such name")
	ErrNoAddress = errors.New("the name has no IPv4 address")
)

// Lookup gives all IPv4 addresses of a name, in the order of the answer,
// whatever aliases lead to them: from the cache, or else the upstreams. ttl is
// how long the answer holds; it comes with ErrNoName and ErrNoAddress too, 0 when
// the server does not say. The LAN's own names are not looked at.
func (s *Server) Lookup(ctx context.Context, name string) (addrs []netip.Addr, ttl time.Duration, err error) {
	pkt, ok := addressQuery(name)
	var q query
	if !ok || q.parse(pkt, true) != rcodeOK {
		return nil, 0, fmt.Errorf("%q is no DNS name", name)
	}
	a, age := s.cache.get(q.key(), s.seconds())
	if a == nil {
		if len(s.state.Load().pool.ups) == 0 {
			return nil, 0, errors.New("no name server is known yet")
		}
		f := newFlight(&q, netip.Addr{})
		done := make(chan *answer, 1)
		go func() { done <- s.resolve(f) }()
		select {
		case a = <-done:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	ttl = time.Duration(a.ttl-age) * time.Second
	switch a.rcode() {
	case rcodeOK:
	case rcodeNXDomain:
		return nil, ttl, ErrNoName
	default:
		return nil, 0, errors.New("no name server answers")
	}
	if addrs = a.addresses(); len(addrs) == 0 {
		return nil, ttl, ErrNoAddress
	}
	return addrs, ttl, nil
}

// addressQuery is a question for A records; false when the name can't be one.
func addressQuery(name string) ([]byte, bool) {
	pkt := make([]byte, headerLen, headerLen+len(name)+6)
	pkt[2], pkt[5] = flagRD, 1
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return nil, false
		}
		pkt = append(append(pkt, byte(len(label))), label...)
	}
	pkt = append16(append16(append(pkt, 0), typeA), classIN)
	return pkt, len(pkt) <= headerLen+nameMax+4
}

// addresses are those of the A records, each once.
func (a *answer) addresses() (out []netip.Addr) {
	seen := map[netip.Addr]bool{}
	off := a.qend
	for range be16(a.msg[6:]) {
		off = skipName(a.msg, off)
		rdata := off + 10
		end := rdata + int(be16(a.msg[off+8:])) // parseAnswer has walked the records
		if be16(a.msg[off:]) == typeA && be16(a.msg[off+2:]) == classIN && end-rdata == 4 {
			if x := netip.AddrFrom4([4]byte(a.msg[rdata:end])); !seen[x] {
				seen[x] = true
				out = append(out, x)
			}
		}
		off = end
	}
	return out
}
