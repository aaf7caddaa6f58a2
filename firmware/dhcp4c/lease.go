package dhcp4c

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is what a server granted. It is never changed once it was emitted.
type Lease struct {
	// Addr is the address with the subnet's prefix length.
	Addr netip.Prefix
	// Router is the default gateway, invalid when there is none. It may lie
	// outside Addr, as some providers have it; it is on the link then.
	Router netip.Addr
	// Routes are the classless routes of option 121 (RFC 3442). When there
	// are any, Router is the one of the default route among them.
	Routes []Route
	DNS    []netip.Addr
	Domain string
	// MTU is 0 when the server offers none or nonsense.
	MTU    int
	Server netip.Addr

	// Acquired is when the request was sent that the server granted. It
	// carries a monotonic reading: compare it with Sub, which a clock step
	// does not disturb, and don't show it before the clock is set.
	Acquired time.Time
	// T1, T2 and Expiry count from Acquired (RFC 2131 section 4.4.5).
	T1, T2, Expiry time.Duration
}

// Route is a classless static route. Via 0.0.0.0 means that Dst is on the link.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

const (
	// minLease guards against a server that makes clients ask all the time.
	minLease     = time.Minute
	defaultLease = time.Hour // when an ACK lacks the lease time, against RFC 2131
	minMTU       = 576       // RFC 791: every host takes this much
	maxMTU       = 9000
	maxDNS       = 8
	maxRoutes    = 64
)

// leaseFrom reads an OFFER or ACK. What is broken beyond use is an error;
// what is merely odd is left out.
func leaseFrom(m *dhcpv4.DHCPv4, at time.Time) (*Lease, error) {
	addr := addrFrom(m.YourIPAddr)
	if !usable(addr) {
		return nil, fmt.Errorf("address %s cannot be a host's", addr)
	}
	bits, err := prefixLength(m, addr)
	if err != nil {
		return nil, err
	}
	l := &Lease{
		Addr:     netip.PrefixFrom(addr, bits),
		Server:   addrFrom(m.ServerIdentifier()),
		Acquired: at,
		Domain:   domain(m.DomainName()),
	}
	if bits <= 30 && (addr == l.Addr.Masked().Addr() || addr == lastOf(l.Addr)) {
		return nil, fmt.Errorf("address %s is the network or broadcast address of its subnet", l.Addr)
	}
	if !usable(l.Server) {
		return nil, errors.New("no server identifier")
	}
	l.Routes = routes(m, addr)
	if len(l.Routes) > 0 { // RFC 3442: then the router option MUST be ignored
		for _, r := range l.Routes {
			if r.Dst.Bits() == 0 {
				l.Router = r.Via
			}
		}
	} else {
		for _, ip := range m.Router() {
			if r := addrFrom(ip); usable(r) && r != addr {
				l.Router = r
				break
			}
		}
	}
	for _, ip := range m.DNS() {
		if d := addrFrom(ip); usable(d) && len(l.DNS) < maxDNS {
			l.DNS = append(l.DNS, d)
		}
	}
	if mtu := m.Options.Get(dhcpv4.OptionInterfaceMTU); len(mtu) == 2 {
		if n := int(binary.BigEndian.Uint16(mtu)); n >= minMTU && n <= maxMTU {
			l.MTU = n
		}
	}
	l.setTimes(m)
	return l, nil
}

// setTimes fills in T1, T2 and Expiry so that 0 < T1 < T2 < Expiry.
func (l *Lease) setTimes(m *dhcpv4.DHCPv4) {
	l.Expiry = max(m.IPAddressLeaseTime(defaultLease), minLease)
	l.T1 = m.IPAddressRenewalTime(0)
	l.T2 = m.IPAddressRebindingTime(0)
	if l.T2 <= 0 || l.T2 >= l.Expiry {
		l.T2 = l.Expiry / 8 * 7
	}
	if l.T1 <= 0 || l.T1 >= l.T2 {
		l.T1 = min(l.Expiry/2, l.T2/8*7)
	}
}

// prefixLength reads the subnet mask; without one it is the one of the
// address's class, as every client does.
func prefixLength(m *dhcpv4.DHCPv4, addr netip.Addr) (int, error) {
	raw := m.Options.Get(dhcpv4.OptionSubnetMask)
	mask := net.IPMask(raw)
	if raw == nil {
		mask = net.IP(addr.AsSlice()).DefaultMask()
	}
	bits, size := mask.Size()
	if size != 32 || bits < 8 {
		return 0, fmt.Errorf("subnet mask %s is not one", mask)
	}
	return bits, nil
}

// routes reads option 121 and leaves out what no router should have.
func routes(m *dhcpv4.DHCPv4, own netip.Addr) []Route {
	var out []Route
	for _, r := range m.ClasslessStaticRoute() {
		bits, _ := r.Dest.Mask.Size()
		dst, via := netip.PrefixFrom(addrFrom(r.Dest.IP), bits), addrFrom(r.Router)
		onLink := via.IsUnspecified()
		switch {
		case !dst.IsValid() || len(out) == maxRoutes:
			continue
		case bits > 0 && (!usable(dst.Addr()) || bits < 3):
			continue
		case !onLink && (!usable(via) || via == own):
			continue
		case onLink && bits == 0:
			continue
		}
		out = append(out, Route{Dst: dst.Masked(), Via: via})
	}
	return out
}

// usable reports whether a may be a host's address on some network.
func usable(a netip.Addr) bool {
	if !a.Is4() || !a.IsGlobalUnicast() {
		return false
	}
	b := a.As4()
	return b[0] != 0 && b[0] < 224
}

func addrFrom(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// lastOf returns the highest address of an IPv4 prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | uint32(uint64(1)<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// domain returns the name if it is one, so that nothing else gets into
// configuration made from it.
func domain(s string) string {
	s = strings.ToLower(strings.Trim(strings.TrimRight(s, "\x00"), "."))
	if len(s) > 253 {
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return ""
		}
	}
	return s
}
