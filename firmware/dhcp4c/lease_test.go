package dhcp4c

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	return reply(&dhcpv4.DHCPv4{HWType: 1, ClientHWAddr: hw}, dhcpv4.MessageTypeAck, mods...)
}

func TestLeaseFrom(t *testing.T) {
	at := time.Unix(1000, 0)
	prefix, ip := netip.MustParsePrefix, netip.MustParseAddr
	base := func(change func(*Lease)) *Lease {
		l := &Lease{
			Addr: netip.PrefixFrom(addr, 24), Router: server, DNS: []netip.Addr{server}, Server: server,
			Acquired: at, T1: 30 * time.Minute, T2: 3150 * time.Second, Expiry: time.Hour,
		}
		change(l)
		return l
	}
	generic := func(code dhcpv4.OptionCode, b ...byte) dhcpv4.Modifier { return dhcpv4.WithGeneric(code, b) }
	for name, c := range map[string]struct {
		mods []dhcpv4.Modifier
		want *Lease // nil: refused
	}{
		"plain": {nil, base(func(*Lease) {})},
		"times given": {[]dhcpv4.Modifier{
			generic(dhcpv4.OptionRenewTimeValue, 0, 0, 0, 100), generic(dhcpv4.OptionRebindingTimeValue, 0, 0, 1, 0),
		}, base(func(l *Lease) { l.T1, l.T2 = 100*time.Second, 256*time.Second })},
		"times the wrong way round": {[]dhcpv4.Modifier{
			generic(dhcpv4.OptionRenewTimeValue, 0, 0, 1, 0), generic(dhcpv4.OptionRebindingTimeValue, 0, 0, 0, 80),
		}, base(func(l *Lease) { l.T1, l.T2 = 70*time.Second, 80*time.Second })},
		"very short": {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(1)},
			base(func(l *Lease) { l.T1, l.T2, l.Expiry = 30*time.Second, 52500*time.Millisecond, time.Minute })},
		"infinite": {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(0xffffffff)},
			base(func(l *Lease) {
				l.Expiry = 0xffffffff * time.Second
				l.T1, l.T2 = l.Expiry/2, l.Expiry/8*7
			})},
		"class mask": {[]dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask), dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3))},
			base(func(l *Lease) { l.Addr = prefix("10.1.2.3/8") })},
		"router outside": {[]dhcpv4.Modifier{dhcpv4.WithNetmask(net.CIDRMask(32, 32))},
			base(func(l *Lease) { l.Addr = netip.PrefixFrom(addr, 32) })},
		"router is us": {[]dhcpv4.Modifier{dhcpv4.WithRouter(addr.AsSlice())},
			base(func(l *Lease) { l.Router = netip.Addr{} })},
		"first DNS is nonsense": {[]dhcpv4.Modifier{dhcpv4.WithDNS(net.IPv4(0, 0, 0, 0), net.IPv4(127, 0, 0, 1), net.IPv4(9, 9, 9, 9))},
			base(func(l *Lease) { l.DNS = []netip.Addr{ip("9.9.9.9")} })},
		"MTU": {[]dhcpv4.Modifier{generic(dhcpv4.OptionInterfaceMTU, 0x05, 0xd4)},
			base(func(l *Lease) { l.MTU = 1492 })},
		"MTU too small": {[]dhcpv4.Modifier{generic(dhcpv4.OptionInterfaceMTU, 0, 68)}, base(func(*Lease) {})},
		"domain": {[]dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptDomainName("Example.NET.\x00"))},
			base(func(l *Lease) { l.Domain = "example.net" })},
		"domain with a line break": {[]dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptDomainName("a\nnameserver 6.6.6.6"))},
			base(func(*Lease) {})},
		"routes": {[]dhcpv4.Modifier{generic(dhcpv4.OptionClasslessStaticRoute,
			24, 198, 51, 100, 192, 0, 2, 2, // a network
			0, 192, 0, 2, 3, // the default
			8, 127, 192, 0, 2, 2, // loopback: left out
			32, 203, 0, 113, 1, 0, 0, 0, 0, // on the link
		)}, base(func(l *Lease) {
			l.Router = ip("192.0.2.3")
			l.Routes = []Route{
				{prefix("198.51.100.0/24"), ip("192.0.2.2")}, {prefix("0.0.0.0/0"), ip("192.0.2.3")},
				{prefix("203.0.113.1/32"), ip("0.0.0.0")},
			}
		})},
		"routes cut": {[]dhcpv4.Modifier{generic(dhcpv4.OptionClasslessStaticRoute, 24, 198, 51)}, base(func(*Lease) {})},
		"multicast":  {[]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))}, nil},
		"zero":       {[]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4zero)}, nil},
		"link-local": {[]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(169, 254, 1, 1))}, nil},
		"network":    {[]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 0))}, nil},
		"no server":  {[]dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)}, nil},
		"long mask":  {[]dhcpv4.Modifier{generic(dhcpv4.OptionSubnetMask, 255, 255, 255, 0, 0)}, nil},
	} {
		got, err := leaseFrom(ack(c.mods...), at)
		if (err != nil) != (c.want == nil) {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// FuzzReply: whatever is on the wire, a lease that comes out of it is sane.
func FuzzReply(f *testing.F) {
	f.Add(ack().ToBytes())
	f.Add(ack(dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{24, 198, 51, 100, 192, 0, 2, 2, 0, 192, 0, 2, 3})).ToBytes())
	for _, a := range []net.IP{net.IPv4zero, net.IPv4bcast, net.IPv4(127, 0, 0, 1), net.IPv4(169, 254, 1, 1), net.IPv4(224, 0, 0, 1), addr.AsSlice()} {
		f.Add(ack(dhcpv4.WithYourIP(a)).ToBytes())
		f.Add(ack(dhcpv4.WithRouter(a)).ToBytes())
		f.Add(ack(dhcpv4.WithOption(dhcpv4.OptServerIdentifier(a))).ToBytes())
		f.Add(ack(dhcpv4.WithDNS(a)).ToBytes())
		f.Add(ack(dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, append([]byte{0}, a.To4()...))).ToBytes())
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionSubnetMask, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionIPAddressLeaseTime,
		dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionDomainName, dhcpv4.OptionMessage} {
		for n := range 6 { // of every length, the right one and the wrong ones
			f.Add(ack(dhcpv4.WithGeneric(code, bytes.Repeat([]byte{0xff}, n))).ToBytes())
			f.Add(ack(dhcpv4.WithGeneric(code, make([]byte, n))).ToBytes())
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := parse(b, hw)
		if d == nil {
			return
		}
		printable(d.Message())
		l, err := leaseFrom(d, time.Unix(0, 0))
		if err != nil {
			return
		}
		switch {
		case !l.Addr.IsValid() || l.Addr.Bits() < 8 || !usable(l.Addr.Addr()) || !usable(l.Server):
			t.Fatalf("lease %+v", l)
		case l.T1 <= 0 || l.T1 >= l.T2 || l.T2 >= l.Expiry || l.Expiry < minLease:
			t.Fatalf("times %v %v %v", l.T1, l.T2, l.Expiry)
		case l.Router.IsValid() && (!usable(l.Router) || l.Router == l.Addr.Addr()):
			t.Fatalf("router %s", l.Router)
		}
		for _, r := range l.Routes {
			if r.Dst != r.Dst.Masked() || !r.Dst.IsValid() {
				t.Fatalf("route %+v", r)
			}
		}
	})
}
