package dhcp4d

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	ack   = dhcpv4.MessageTypeAck
	nak   = dhcpv4.MessageTypeNak
	offer = dhcpv4.MessageTypeOffer
)

// bubble runs a test with a server in a synctest bubble.
func bubble(t *testing.T, change func(*Options), body func(t *testing.T, l *lan)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := start(t, change)
		defer l.stop()
		body(t, l)
	})
}

func TestLease(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		h := l.host(1)
		h.name = "Phone.example"
		a := h.discover()
		if !l.Server.t.cfg.inPool(a) {
			t.Errorf("offered %s, want one of the pool", a)
		}
		if l.lease(a) != nil {
			t.Error("an offer is listed as a lease")
		}
		r := h.say(dhcpv4.MessageTypeRequest, requested(a), serverID(l.router()))
		if h.want(r, ack) != a {
			t.Errorf("granted %s, want %s", r.YourIPAddr, a)
		}
		if r.dst != a || r.to.String() != h.hw.String() {
			t.Errorf("ACK to %s at %s, want unicast to %s", r.dst, r.to, a)
		}
		for what, c := range map[string][2]any{
			"lease time": {r.IPAddressLeaseTime(0), time.Hour}, "T1": {r.IPAddressRenewalTime(0), 30 * time.Minute},
			"T2": {r.IPAddressRebindingTime(0), 3150 * time.Second}, "mask": {net.IP(r.SubnetMask()).String(), "255.255.255.0"},
			"domain": {r.DomainName(), "lan"}, "routers": {len(r.Router()), 1}, "router": {addrFrom(r.Router()[0]), ip("192.168.1.1")},
			"DNS": {addrFrom(r.DNS()[0]), ip("192.168.1.1")},
		} {
			if c[0] != c[1] {
				t.Errorf("%s: %v, want %v", what, c[0], c[1])
			}
		}
		synctest.Wait()
		want := []Lease{{MAC: h.hw.String(), Addr: a, Hostname: "phone", Expires: now().Add(time.Hour)}}
		opts := cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateApproxTime(time.Second)}
		if diff := cmp.Diff(want, l.Leases(), opts); diff != "" {
			t.Errorf("leases (-want +got):\n%s", diff)
		}
		<-l.changes // empty, at the start
		if diff := cmp.Diff(want, <-l.changes, opts); diff != "" {
			t.Errorf("OnChange (-want +got):\n%s", diff)
		}

		// The lease ends by itself; the address stays the client's.
		time.Sleep(time.Hour + tickEvery)
		synctest.Wait()
		if got := <-l.changes; len(got) != 0 || l.lease(a) != nil {
			t.Errorf("after the end: OnChange %v, leases %v", got, l.Leases())
		}
		if got := h.discover(); got != a {
			t.Errorf("offered %s afterwards, want %s again", got, a)
		}
	})
}

// TestShortLease: what clients get for now is short, and costs no write at each
// renewal; afterwards they get the lease time with their next one.
func TestShortLease(t *testing.T) {
	bubble(t, func(o *Options) { o.Config.ShortLease = MinLeaseTime }, func(t *testing.T, l *lan) {
		h := l.host(1)
		a := h.get()
		for range 25 {
			time.Sleep(time.Minute)
			r := h.renew(a)
			if h.want(r, ack); r.IPAddressLeaseTime(0) != MinLeaseTime || r.IPAddressRenewalTime(0) != time.Minute {
				t.Fatalf("lease of %s, renewed after %s", r.IPAddressLeaseTime(0), r.IPAddressRenewalTime(0))
			}
		}
		if n := l.store.count(); n != 1 {
			t.Errorf("%d writes for one lease, want 1", n)
		}
		if err := l.SetConfig(config()); err != nil {
			t.Fatal(err)
		}
		if r := h.renew(a); r.IPAddressLeaseTime(0) != time.Hour {
			t.Errorf("lease of %s afterwards, want an hour", r.IPAddressLeaseTime(0))
		}
		time.Sleep(50 * time.Minute)
		if l.lease(a) == nil {
			t.Error("the lease ends before its time")
		}
	})
}

func TestBroadcastFlagAndClientID(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		h := l.host(1)
		h.flag, h.id = true, []byte{0xff, 1, 2, 3}
		r := h.say(dhcpv4.MessageTypeDiscover)
		a := h.want(r, offer)
		if r.dst != everybody || r.to.String() != everybodyHW.String() {
			t.Errorf("OFFER to %s at %s, want a broadcast", r.dst, r.to)
		}
		if got := string(r.Options.Get(dhcpv4.OptionClientIdentifier)); got != string(h.id) {
			t.Errorf("client identifier %q, want it back (RFC 6842)", got)
		}
		// The same client with another network card.
		h.hw = mac(2)
		if got := h.get(); got != a {
			t.Errorf("got %s, want %s for the same client identifier", got, a)
		}
		// Another client with the first card.
		if got := l.host(1).get(); got == a {
			t.Errorf("two clients have %s", a)
		}
	})
}

func TestRequestStates(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		a := l.host(1).get()
		other := ip("192.168.1.200")
		if other == a {
			other = ip("192.168.1.201")
		}
		req := func(h *host, mods ...dhcpv4.Modifier) *answered { return h.say(dhcpv4.MessageTypeRequest, mods...) }
		for _, c := range []struct {
			name string
			host int
			mods []dhcpv4.Modifier
			want dhcpv4.MessageType // MessageTypeNone: silence
		}{
			{"init-reboot, its own", 1, []dhcpv4.Modifier{requested(a)}, ack},
			{"init-reboot, not its own", 1, []dhcpv4.Modifier{requested(other)}, nak},
			{"init-reboot, another network", 1, []dhcpv4.Modifier{requested(ip("10.0.0.5"))}, nak},
			{"init-reboot, unknown client, another's address", 2, []dhcpv4.Modifier{requested(a)}, nak},
			{"init-reboot, unknown client, outside the pool", 2, []dhcpv4.Modifier{requested(ip("192.168.1.20"))}, dhcpv4.MessageTypeNone},
			{"init-reboot, unknown client, free address", 3, []dhcpv4.Modifier{requested(other)}, ack},
			{"init-reboot, the router's address", 4, []dhcpv4.Modifier{requested(ip("192.168.1.1"))}, dhcpv4.MessageTypeNone},
			{"renewing, its own", 1, []dhcpv4.Modifier{ciaddr(a)}, ack},
			{"renewing, another's", 2, []dhcpv4.Modifier{ciaddr(a)}, nak},
			{"rebinding, another network", 5, []dhcpv4.Modifier{ciaddr(ip("192.168.77.100"))}, nak},
			{"selecting another server", 6, []dhcpv4.Modifier{requested(other), serverID(ip("192.168.1.2"))}, dhcpv4.MessageTypeNone},
			{"selecting, taken", 6, []dhcpv4.Modifier{requested(a), serverID(ip("192.168.1.1"))}, nak},
			{"selecting, no address", 6, []dhcpv4.Modifier{serverID(ip("192.168.1.1"))}, dhcpv4.MessageTypeNone},
			{"nothing asked", 6, nil, dhcpv4.MessageTypeNone},
			{"through a relay", 1, []dhcpv4.Modifier{ciaddr(a), dhcpv4.WithRelay(net.IPv4(192, 168, 1, 9))}, dhcpv4.MessageTypeNone},
		} {
			h := l.host(c.host)
			r := req(h, c.mods...)
			switch {
			case r == nil && c.want == dhcpv4.MessageTypeNone:
			case r == nil || r.MessageType() != c.want:
				t.Errorf("%s: answer %v, want %s", c.name, r, c.want)
			case c.want == nak && (r.dst != everybody || !r.YourIPAddr.IsUnspecified() || r.Message() == ""):
				t.Errorf("%s: NAK to %s: %s, want a broadcast with a message", c.name, r.dst, r.Summary())
			}
		}
		r := l.host(1).renew(a)
		if r.dst != a || addrFrom(r.ClientIPAddr) != a {
			t.Errorf("renewal answered to %s, want unicast to %s", r.dst, a)
		}
	})
}

func TestOfferToOtherServerIsWithdrawn(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		h := l.host(1)
		a := h.discover()
		h.say(dhcpv4.MessageTypeRequest, requested(ip("192.168.1.7")), serverID(ip("192.168.1.2")))
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.Server.t.byAddr[a] != nil {
			t.Errorf("%s is still held", a)
		}
	})
}

func TestReleaseDeclineInform(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		h := l.host(1)
		a := h.get()
		l.host(2).say(dhcpv4.MessageTypeRelease, ciaddr(a), serverID(l.router()))
		if l.lease(a) == nil {
			t.Fatal("released by somebody else")
		}
		h.say(dhcpv4.MessageTypeRelease, ciaddr(a), serverID(l.router()))
		if l.lease(a) != nil {
			t.Fatal("still leased after RELEASE")
		}
		if got := h.get(); got != a {
			t.Errorf("got %s after RELEASE, want %s again", got, a)
		}

		l.host(2).say(dhcpv4.MessageTypeDecline, requested(a), serverID(l.router()))
		if l.lease(a) == nil {
			t.Fatal("declined by somebody else")
		}
		h.say(dhcpv4.MessageTypeDecline, requested(a), serverID(l.router()))
		if l.lease(a) != nil {
			t.Fatal("still leased after DECLINE")
		}
		if got := h.get(requested(a)); got == a {
			t.Errorf("got %s, which is in use by another device", got)
		}
		time.Sleep(abandonHold + time.Second)
		fresh := l.host(3)
		if r := fresh.say(dhcpv4.MessageTypeRequest, requested(a)); r == nil || r.MessageType() != ack {
			t.Errorf("%s after its time of abandonment: %v, want it back in use", a, r)
		}

		r := l.host(4).say(dhcpv4.MessageTypeInform, ciaddr(ip("192.168.1.5")))
		l.host(4).want(r, ack)
		if !r.YourIPAddr.IsUnspecified() || r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || r.dst != ip("192.168.1.5") || len(r.DNS()) != 1 {
			t.Errorf("INFORM answered to %s: %s", r.dst, r.Summary())
		}
		if r := l.host(4).say(dhcpv4.MessageTypeInform, ciaddr(ip("8.8.8.8"))); r != nil {
			t.Errorf("INFORM from outside answered: %v", r)
		}
	})
}

func TestAddressInUse(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		h := l.host(1)
		used := h.discover()
		// Another server with the same habits, where a device has just that
		// address by its own settings.
		bubbleless := ip(used.String())
		l.stop()
		l2 := start(t, nil)
		defer l2.stop()
		l2.conn.mu.Lock()
		l2.conn.users[bubbleless] = mac(99)
		l2.conn.mu.Unlock()
		got := l2.host(1).discover()
		if got == used {
			t.Errorf("offered %s, which another device uses", got)
		}
		// The client itself may still use it.
		l2.conn.mu.Lock()
		l2.conn.users[ip("192.168.1.150")] = mac(2)
		l2.conn.mu.Unlock()
		if got := l2.host(2).discover(requested(ip("192.168.1.150"))); got != ip("192.168.1.150") {
			t.Errorf("offered %s, want 192.168.1.150", got)
		}
	})
}

func TestStatic(t *testing.T) {
	fixed := Static{MAC: mac(1), Addr: ip("192.168.1.10"), Name: "printer"}
	inPool := Static{MAC: mac(2), Addr: ip("192.168.1.120")}
	bubble(t, func(o *Options) { o.Config.Static = []Static{fixed, inPool} }, func(t *testing.T, l *lan) {
		h := l.host(1)
		h.name = "HP-LaserJet"
		if got := h.get(); got != fixed.Addr {
			t.Errorf("got %s, want %s", got, fixed.Addr)
		}
		if x := l.lease(fixed.Addr); x == nil || !x.Static || x.Hostname != "printer" {
			t.Errorf("lease %+v", x)
		}
		// Nobody else gets it, asked for or not, and no name of it either.
		thief := l.host(3)
		thief.name = "printer"
		got := thief.get(requested(inPool.Addr))
		if got == inPool.Addr {
			t.Errorf("%s went to another device", got)
		}
		if x := l.lease(got); x.Hostname != "printer-2" {
			t.Errorf("name %q, want printer-2", x.Hostname)
		}
		// A PXE ROM and the system on the same machine.
		h.id = []byte{0, 1, 2, 3, 4}
		if got := h.get(); got != fixed.Addr {
			t.Errorf("with another client identifier: got %s, want %s", got, fixed.Addr)
		}

		// A device that has a lease gets a fixed address: it is told to move.
		c := l.Server.t.cfg
		c.Static = append(c.Static, Static{MAC: mac(3), Addr: ip("192.168.1.11")})
		if err := l.SetConfig(c); err != nil {
			t.Fatal(err)
		}
		if r := thief.renew(got); r == nil || r.MessageType() != nak {
			t.Errorf("renewal of the former address: %v, want NAK", r)
		}
		if got := thief.get(); got != ip("192.168.1.11") {
			t.Errorf("got %s, want 192.168.1.11", got)
		}
	})
}

func TestNames(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		for i, c := range []struct{ name, want string }{
			{"laptop", "laptop"}, {"LAPTOP", "laptop-2"}, {"laptop.lan", "laptop-3"}, {"culvert", ""}, {"wpad", ""},
			{"Bob's iPhone", "bob-s-iphone"}, {"--", ""}, {"näs", "n-s"}, {"a\x00b", "a"}, {strings.Repeat("x", 80), strings.Repeat("x", 63)},
			{"", ""},
		} {
			h := l.host(i + 1)
			h.name = c.name
			a := h.get()
			if got := l.lease(a).Hostname; got != c.want {
				t.Errorf("%q is called %q, want %q", c.name, got, c.want)
			}
			h.name = "" // some renew without it
			h.renew(a)
			if got := l.lease(a).Hostname; got != c.want {
				t.Errorf("%q is called %q after a renewal, want %q", c.name, got, c.want)
			}
		}
	})
}

func TestFQDN(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		for i, c := range []struct {
			option []byte
			want   string
		}{
			{append([]byte{1, 0, 0}, "toaster"...), "toaster"},
			{append([]byte{5, 0, 0, 4}, "oven\x03lan\x00"...), "oven"},
			{[]byte{5, 0, 0, 63, 'x'}, "x"}, {[]byte{5, 0, 0}, ""}, {[]byte{4, 0, 0, 0}, ""},
		} {
			h := l.host(i + 1)
			a := h.discover()
			h.say(dhcpv4.MessageTypeRequest, requested(a), serverID(l.router()), dhcpv4.WithGeneric(dhcpv4.OptionFQDN, c.option))
			if got := l.lease(a).Hostname; got != c.want {
				t.Errorf("option 81 %q makes %q, want %q", c.option, got, c.want)
			}
		}
	})
}

// TestSpray: a host that makes up clients takes no address for long, and
// none from those who have one.
func TestSpray(t *testing.T) {
	bubble(t, func(o *Options) { o.ProbeWait = -1 }, func(t *testing.T, l *lan) {
		good := l.host(1)
		a := good.get()
		silent := 0
		for i := range 1000 {
			l.conn.in <- l.host(1000 + i).message(dhcpv4.MessageTypeDiscover).ToBytes()
		}
		synctest.Wait()
		for len(l.conn.out) > 0 {
			<-l.conn.out
			silent++
		}
		if silent != 149 {
			t.Errorf("%d offers, want those of the free pool, 149", silent)
		}
		if r := good.renew(a); r == nil || r.MessageType() != ack {
			t.Errorf("renewal under attack: %v", r)
		}
		// A newcomer waits for seconds, not for the attacker's minute.
		time.Sleep(offerSteal)
		l.host(2).get()
		if n := len(l.Server.t.byAddr); n > 150 {
			t.Errorf("%d bindings, want at most the pool", n)
		}
		if n := len(l.Leases()); n != 2 {
			t.Errorf("%d leases, want 2", n)
		}
	})
}

func TestBigPoolIsBounded(t *testing.T) {
	now := time.Now()
	c := config()
	c.Router = netip.MustParsePrefix("10.0.0.1/8")
	c.PoolStart, c.PoolEnd = ip("10.0.1.0"), ip("10.255.255.0")
	tab := newTable(c, func() time.Time { return now })
	for i := range maxBindings + 300 {
		cl := client{key: string(rune(i)), mac: mac(i).String()}
		want := netip.Addr{}
		if i%3 == 0 {
			want = addrOf(num(c.PoolStart) + uint32(i))
		}
		if b, _ := tab.choose(cl, want); b != nil && i%2 == 0 {
			tab.grant(cl, b.addr)
		}
	}
	if n := len(tab.byAddr); n > maxBindings {
		t.Errorf("%d bindings, want at most %d", n, maxBindings)
	}
}

func TestPoolReusesTheOldest(t *testing.T) {
	bubble(t, func(o *Options) { o.Config.PoolEnd = ip("192.168.1.115") }, func(t *testing.T, l *lan) {
		var got [16]netip.Addr
		for i := range got {
			got[i] = l.host(i + 1).get()
			time.Sleep(time.Minute)
		}
		if a := l.host(99).say(dhcpv4.MessageTypeDiscover); a != nil {
			t.Errorf("a full pool offers %s", a.YourIPAddr)
		}
		time.Sleep(2 * time.Hour)
		l.host(1).get() // back: keeps its own
		if a := l.host(99).get(); a != got[1] {
			t.Errorf("reused %s, want %s, which ended first", a, got[1])
		}
	})
}

func TestSubnetMoves(t *testing.T) {
	bubble(t, nil, func(t *testing.T, l *lan) {
		h := l.host(1)
		h.name = "laptop"
		a := h.get()
		c := config()
		c.Router, c.PoolStart, c.PoolEnd = netip.MustParsePrefix("192.168.77.1/24"), ip("192.168.77.100"), ip("192.168.77.249")
		if err := l.SetConfig(c); err != nil {
			t.Fatal(err)
		}
		b := a.As4()
		b[2] = 77
		moved := netip.AddrFrom4(b)
		if x := l.lease(moved); x == nil || x.Hostname != "laptop" {
			t.Errorf("leases %v, want %s for laptop", l.Leases(), moved)
		}
		if r := h.renew(a); r == nil || r.MessageType() != nak {
			t.Errorf("renewal of %s: %v, want NAK", a, r)
		} else if id := addrFrom(r.ServerIdentifier()); id != ip("192.168.1.1") {
			t.Errorf("NAK of %s, want it of the server that the client knows", id)
		}
		if r := h.say(dhcpv4.MessageTypeRequest, requested(a), serverID(ip("192.168.1.1"))); r == nil || r.MessageType() != nak {
			t.Errorf("offer of before the move taken: %v, want NAK", r)
		}
		if got := h.get(); got != moved {
			t.Errorf("got %s, want %s", got, moved)
		}
		time.Sleep(saveDelay)
		synctest.Wait()
		if got := l.store.addrs(); len(got) != 1 || got[0] != moved {
			t.Errorf("stored %v, want %s alone", got, moved)
		}
		if err := l.SetConfig(c); err != nil || len(l.Server.t.former) != 1 {
			t.Errorf("the same configuration again: %v, former %v", err, l.Server.t.former)
		}
		c.Interface = "other"
		if err := l.SetConfig(c); err == nil {
			t.Error("the interface changed")
		}
	})
}

func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, nil)
		a, b := l.host(1).get(), l.host(2).get()
		time.Sleep(saveDelay)
		synctest.Wait()
		if l.store.count() != 1 || len(l.store.addrs()) != 2 {
			t.Errorf("%d writes of %v, want one for both", l.store.count(), l.store.addrs())
		}
		for range 12 { // six hours of renewals at T1
			time.Sleep(30 * time.Minute)
			l.host(1).renew(a)
			l.host(2).renew(b)
		}
		time.Sleep(saveDelay)
		if n := l.store.count(); n < 4 || n > 8 {
			t.Errorf("%d writes for 12 renewals, want fewer but some", n)
		}
		l.store.setFail(errors.New("no space left on device"))
		c := l.host(3).get()
		time.Sleep(2 * saveDelay)
		l.store.setFail(nil)
		time.Sleep(saveRetry)
		synctest.Wait()
		if n := len(l.store.addrs()); n != 3 {
			t.Errorf("%d leases stored after the disk was full, want 3", n)
		}
		l.stop()

		// A router that was off for a while, then one whose clock starts in
		// 1970: the clients' leases still hold.
		time.Sleep(10 * time.Minute)
		for _, clock := range []func() time.Time{
			now,
			func() time.Time { return time.Now().AddDate(-30, 0, 0) }, // 1970
		} {
			l = start(t, func(o *Options) { o.Store, o.Now = l.store, clock })
			if x := l.lease(c); x == nil || x.Expires.After(clock().Add(time.Hour)) {
				t.Errorf("leases after a restart: %v, want %s, for at most an hour", l.Leases(), c)
			}
			if r := l.host(1).renew(a); r == nil || r.MessageType() != ack {
				t.Errorf("renewal after a restart: %v", r)
			}
			l.stop()
		}
		// Nothing is left of what it had: it takes over what fits.
		l = start(t, nil)
		defer l.stop()
		if r := l.host(1).renew(a); r == nil || r.MessageType() != ack {
			t.Errorf("renewal with an empty store: %v, want it taken over", r)
		}
	})
}

// TestRewrite: after NTP has set the clock all stored ends are written again,
// by the new clock.
func TestRewrite(t *testing.T) {
	clock := now()
	tab := newTable(config(), func() time.Time { return clock })
	c := client{key: "hw:1", mac: mac(1).String()}
	b, _ := tab.choose(c, netip.Addr{})
	tab.grant(c, b.addr)
	if save, _ := tab.pending(); len(save) != 1 {
		t.Fatalf("to write: %v, want the lease", save)
	}
	if save, _ := tab.pending(); len(save) != 0 {
		t.Fatalf("to write: %v, want nothing new", save)
	}
	tab.rewrite()
	save, _ := tab.pending()
	if len(save) != 1 || !save[0].Expires.Equal(clock.Add(2*time.Hour)) {
		t.Errorf("to write: %v, want the lease to %v", save, clock.Add(2*time.Hour))
	}
}

// TestExpiredInStore: what ended long ago is remembered but no lease.
func TestExpiredInStore(t *testing.T) {
	bubble(t, func(o *Options) {
		o.Store = &memStore{leases: map[netip.Addr]Lease{
			ip("192.168.1.150"): {MAC: mac(1).String(), Addr: ip("192.168.1.150"), Expires: now().Add(-time.Hour)},
			// Written while the clock stood in 1970: it may well hold.
			ip("192.168.1.151"): {MAC: mac(4).String(), Addr: ip("192.168.1.151"), Expires: time.Unix(7200, 0)},
			ip("10.0.0.1"):      {MAC: mac(2).String(), Addr: ip("10.0.0.1"), Expires: now().Add(time.Hour)},
			ip("10.0.0.120"):    {MAC: mac(3).String(), Addr: ip("10.0.0.120"), Expires: now().Add(time.Hour)},
		}}
	}, func(t *testing.T, l *lan) {
		// The LAN was moved while it was off: who fits in follows.
		if got := l.Leases(); len(got) != 2 || got[0].Addr != ip("192.168.1.120") || got[1].Addr != ip("192.168.1.151") {
			t.Errorf("leases %v, want 192.168.1.120 and .151", got)
		}
		if a := l.host(1).discover(); a != ip("192.168.1.150") {
			t.Errorf("offered %s, want the address of before", a)
		}
		time.Sleep(saveDelay)
		synctest.Wait()
		if got := l.store.addrs(); len(got) != 3 || got[0] != ip("192.168.1.120") || got[2] != ip("192.168.1.151") {
			t.Errorf("stored %v, want what is outside the LAN deleted", got)
		}
	})
}

func TestRunFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &fakeConn{in: make(chan []byte), out: make(chan answered, 1), closed: make(chan struct{})}
		s, err := New(Options{Config: config(), Listen: func(string) (Conn, error) { return conn, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Run(t.Context()) }()
		synctest.Wait()
		conn.mu.Lock()
		conn.check = errors.New("lan is a new interface")
		conn.mu.Unlock()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "new interface") {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"no interface":         func(c *Config) { c.Interface = "" },
		"from /8 to /30":       func(c *Config) { c.Router = netip.MustParsePrefix("192.168.1.1/31") },
		"at least 2m":          func(c *Config) { c.LeaseTime = time.Minute },
		"is no host of":        func(c *Config) { c.PoolEnd = ip("192.168.1.255") },
		"ends before":          func(c *Config) { c.PoolStart, c.PoolEnd = c.PoolEnd, c.PoolStart },
		"must be a free host":  func(c *Config) { c.Static = []Static{{MAC: mac(1), Addr: ip("192.168.1.1")}} },
		"no Ethernet":          func(c *Config) { c.Static = []Static{{Addr: ip("192.168.1.2")}} },
		"is two devices":       func(c *Config) { c.Static = []Static{{mac(1), ip("192.168.1.2"), ""}, {mac(1), ip("192.168.1.3"), ""}} },
		"belongs to two":       func(c *Config) { c.Static = []Static{{mac(1), ip("192.168.1.2"), ""}, {mac(2), ip("192.168.1.2"), ""}} },
		"192.168.2.1 is no ho": func(c *Config) { c.PoolStart = ip("192.168.2.1") },
	} {
		c := config()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	c := config()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

// FuzzHandle: nothing that comes in breaks the server, and all it gives out
// is its own to give.
func FuzzHandle(f *testing.F) {
	h := &host{hw: mac(1)}
	for typ := dhcpv4.MessageTypeDiscover; typ <= dhcpv4.MessageTypeInform; typ++ {
		f.Add(h.message(typ, requested(ip("192.168.1.150"))).ToBytes())
		f.Add(h.message(typ, ciaddr(ip("192.168.1.151"))).ToBytes())
	}
	for n := range 6 { // a name whose length is more than there is, and less than the head of its option
		f.Add(h.message(dhcpv4.MessageTypeDiscover, dhcpv4.WithGeneric(dhcpv4.OptionFQDN, []byte{4, 0, 0, 0xff, 'p', 'c'}[:n])).ToBytes())
		f.Add(h.message(dhcpv4.MessageTypeDiscover, dhcpv4.WithGeneric(dhcpv4.OptionClientIdentifier, make([]byte, n))).ToBytes())
	}
	s, err := New(Options{Config: config(), ProbeWait: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := parse(b)
		if req == nil {
			return
		}
		r := s.answer(req)
		if r == nil {
			return
		}
		if a := addrFrom(r.msg.YourIPAddr); !a.IsUnspecified() && !s.t.cfg.inPool(a) {
			t.Fatalf("gave out %s", a)
		}
		if _, err := dhcpv4.FromBytes(r.msg.ToBytes()); err != nil {
			t.Fatalf("answer cannot be read: %v", err)
		}
		for a, b := range s.t.byAddr {
			if b.addr != a || !s.t.cfg.inPool(a) {
				t.Fatalf("table has %s at %s", b.addr, a)
			}
		}
	})
}
