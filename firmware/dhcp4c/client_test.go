package dhcp4c

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// near fails when a time is off by more than RFC 2131's second of jitter.
func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := got - want; d < -time.Second || d > time.Second {
		t.Errorf("%s after %v, want %v ± 1 s", what, got, want)
	}
}

func TestAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		d := f.expect(dhcpv4.MessageTypeDiscover)
		if d.has(dhcpv4.OptionRequestedIPAddress) || d.has(dhcpv4.OptionServerIdentifier) || !d.ClientIPAddr.IsUnspecified() {
			t.Errorf("first DISCOVER asks for an address: %s", d.Summary())
		}
		if d.HostName() != "culvert" || d.src != netip.IPv4Unspecified() || d.IsBroadcast() {
			t.Errorf("DISCOVER: host name %q from %s, broadcast flag %v", d.HostName(), d.src, d.IsBroadcast())
		}
		if p := d.ParameterRequestList(); len(p) == 0 || p[0] != dhcpv4.OptionClasslessStaticRoute {
			t.Errorf("parameter request list %v, want option 121 first", p)
		}
		time.Sleep(3 * time.Second)
		f.answer(d, dhcpv4.MessageTypeOffer)
		r := f.expect(dhcpv4.MessageTypeRequest)
		if got := addrFrom(r.RequestedIPAddress()); got != addr {
			t.Errorf("REQUEST for %s, want %s", got, addr)
		}
		if got := addrFrom(r.ServerIdentifier()); got != server {
			t.Errorf("REQUEST to %s, want %s", got, server)
		}
		if r.TransactionID != d.TransactionID || r.NumSeconds != d.NumSeconds || !r.ClientIPAddr.IsUnspecified() {
			t.Errorf("REQUEST: xid %v secs %d ciaddr %s, want the DISCOVER's %v, %d and none",
				r.TransactionID, r.NumSeconds, r.ClientIPAddr, d.TransactionID, d.NumSeconds)
		}
		f.nothing()
		f.answer(r, dhcpv4.MessageTypeAck)
		l := f.lease()
		if l.Addr != netip.PrefixFrom(addr, 24) || l.Router != server || l.Server != server || l.Expiry != time.Hour ||
			l.T1 != 30*time.Minute || l.T2 != 52*time.Minute+30*time.Second || !l.Acquired.Equal(r.at) {
			t.Errorf("lease %+v", l)
		}
		synctest.Wait()
		if s := f.Status(); s.State != Bound || s.Lease != l || s.Problem != "" {
			t.Errorf("status %+v, want bound", s)
		}
		if f.isOpen() {
			t.Error("the packet socket is open while bound")
		}
		if len(f.probed) != 1 || f.probed[0] != addr {
			t.Errorf("probed %v, want %s once", f.probed, addr)
		}
	})
}

func TestDiscoverBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		last := f.expect(dhcpv4.MessageTypeDiscover)
		first, jittered := last, false
		for _, want := range []int{4, 8, 16, 32, 64, 64, 64} {
			d := f.expect(dhcpv4.MessageTypeDiscover)
			gap := d.at.Sub(last.at)
			near(t, "DISCOVER", gap, time.Duration(want)*time.Second)
			jittered = jittered || gap%time.Second != 0
			if got, want := d.NumSeconds, uint16(d.at.Sub(first.at)/time.Second); got != want {
				t.Errorf("secs %d, want %d", got, want)
			}
			last = d
		}
		if !jittered {
			t.Error("the waits are without jitter")
		}
		if p := f.Status().Problem; !strings.Contains(p, "no DHCP server answers on wan") {
			t.Errorf("problem %q, want that no server answers", p)
		}
	})
}

func TestRequestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		f.answer(f.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer)
		r := f.expect(dhcpv4.MessageTypeRequest)
		for _, want := range []int{4, 8, 16} {
			next := f.expect(dhcpv4.MessageTypeRequest)
			near(t, "REQUEST", next.at.Sub(r.at), time.Duration(want)*time.Second)
			r = next
		}
		near(t, "DISCOVER", f.expect(dhcpv4.MessageTypeDiscover).at.Sub(r.at), 32*time.Second)
	})
}

func TestRenewRebindExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		l := f.acquire()

		// T1: unicast from the address, without requested address and server.
		r := f.expect(dhcpv4.MessageTypeRequest)
		near(t, "renewal", r.at.Sub(l.Acquired), 30*time.Minute)
		if !r.unicast || r.src != addr || addrFrom(r.ClientIPAddr) != addr ||
			r.has(dhcpv4.OptionRequestedIPAddress) || r.has(dhcpv4.OptionServerIdentifier) {
			t.Errorf("renewal: unicast %v from %s: %s", r.unicast, r.src, r.Summary())
		}
		f.answer(r, dhcpv4.MessageTypeAck)
		l = f.lease()
		if !l.Acquired.Equal(r.at) {
			t.Errorf("renewed lease counts from %v, want %v", l.Acquired, r.at)
		}

		// Unanswered: half of what is left until T2, at least a minute.
		t2 := l.Acquired.Add(l.T2)
		r = f.expect(dhcpv4.MessageTypeRequest)
		for {
			next := f.expect(dhcpv4.MessageTypeRequest)
			if !next.unicast {
				near(t, "rebinding", next.at.Sub(l.Acquired), l.T2)
				r = next
				break
			}
			near(t, "next renewal", next.at.Sub(r.at), max(t2.Sub(r.at)/2, time.Minute))
			r = next
		}
		if r.src != addr || addrFrom(r.ClientIPAddr) != addr || r.has(dhcpv4.OptionServerIdentifier) {
			t.Errorf("rebinding from %s: %s", r.src, r.Summary())
		}
		if p := f.Status().Problem; !strings.Contains(p, "192.0.2.1 does not renew") {
			t.Errorf("problem %q, want that the server does not renew", p)
		}
		f.nothing()

		// Nobody answers: the address is given up on the second.
		f.lost()
		if got := time.Since(l.Acquired); got != l.Expiry {
			t.Errorf("lost after %v, want %v", got, l.Expiry)
		}
		for {
			s := <-f.sent
			if s.MessageType() == dhcpv4.MessageTypeDiscover {
				if !s.at.Equal(l.Acquired.Add(l.Expiry)) {
					t.Errorf("DISCOVER at %v, want at once after the end", s.at.Sub(l.Acquired))
				}
				break
			}
		}
	})
}

func TestRebindTakesAnyServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		f.acquire()
		other := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 9)))
		for {
			r := f.expect(dhcpv4.MessageTypeRequest)
			f.answer(r, dhcpv4.MessageTypeAck, other)
			synctest.Wait()
			if r.unicast {
				f.nothing() // RENEWING listens to its own server only
				continue
			}
			if l := f.lease(); l.Server != netip.MustParseAddr("192.0.2.9") {
				t.Errorf("server %s, want 192.0.2.9", l.Server)
			}
			return
		}
	})
}

func TestRenewWithoutConfiguredAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, func(_ *Options, l *link) { l.noUnicast = true })
		defer f.stop()
		f.acquire()
		if r := f.expect(dhcpv4.MessageTypeRequest); r.unicast || addrFrom(r.ClientIPAddr) != addr {
			t.Errorf("renewal: %s, want a broadcast", r.Summary())
		}
	})
}

func TestNAK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		f.acquire()
		r := f.expect(dhcpv4.MessageTypeRequest)
		f.answer(r, dhcpv4.MessageTypeNak)
		f.lost()
		d := f.expect(dhcpv4.MessageTypeDiscover)
		if !d.at.Equal(r.at) {
			t.Errorf("DISCOVER %v after the NAK, want at once", d.at.Sub(r.at))
		}
		if d.has(dhcpv4.OptionRequestedIPAddress) {
			t.Error("DISCOVER asks for the refused address")
		}
		// A server that offers and refuses for ever is not to be flooded.
		start := time.Now()
		for range 20 {
			f.answer(d, dhcpv4.MessageTypeOffer)
			f.answer(f.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak)
			d = f.expect(dhcpv4.MessageTypeDiscover)
		}
		if took := time.Since(start); took < 10*time.Minute {
			t.Errorf("20 refusals in %v, want pauses between them", took)
		}
	})
}

func TestIgnores(t *testing.T) {
	mods := map[string]dhcpv4.Modifier{
		"other xid":         dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}),
		"other client":      dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9}),
		"other server":      dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 9))),
		"no server":         dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier),
		"request":           func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootRequest },
		"other address":     dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 78)),
		"loopback":          dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)),
		"broadcast address": dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 255)),
		"no mask at all":    dhcpv4.WithNetmask(net.IPMask{0, 0, 0, 0}),
		"mask with a hole":  dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0}),
		"offer":             dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
		"no type":           dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType),
	}
	for name, mod := range mods {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, nil)
			defer f.stop()
			f.answer(f.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer)
			r := f.expect(dhcpv4.MessageTypeRequest)
			f.answer(r, dhcpv4.MessageTypeAck, mod)
			f.put([]byte("garbage"))
			f.put(nil)
			synctest.Wait()
			select {
			case l := <-f.emitted:
				t.Errorf("%s: took %+v", name, l)
			default:
			}
			f.answer(r, dhcpv4.MessageTypeAck)
			f.lease()
		})
	}
}

func TestReboot(t *testing.T) {
	previous := func(o *Options, _ *link) { o.Previous = &Lease{Addr: netip.PrefixFrom(addr, 24), Server: server} }
	ask := func(t *testing.T, f *fixture) sent {
		r := f.expect(dhcpv4.MessageTypeRequest)
		if addrFrom(r.RequestedIPAddress()) != addr || r.has(dhcpv4.OptionServerIdentifier) || !r.ClientIPAddr.IsUnspecified() {
			t.Errorf("INIT-REBOOT: %s", r.Summary())
		}
		return r
	}
	t.Run("granted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, previous)
			defer f.stop()
			f.answer(ask(t, f), dhcpv4.MessageTypeAck)
			if l := f.lease(); l.Addr.Addr() != addr {
				t.Errorf("got %s", l.Addr)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, previous)
			defer f.stop()
			r := ask(t, f)
			f.answer(r, dhcpv4.MessageTypeNak)
			if d := f.expect(dhcpv4.MessageTypeDiscover); !d.at.Equal(r.at) || d.has(dhcpv4.OptionRequestedIPAddress) {
				t.Errorf("after a NAK: %s", d.Summary())
			}
			f.nothing()
		})
	})
	t.Run("refused while in use", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, func(o *Options, l *link) { previous(o, l); o.InUse = true })
			defer f.stop()
			f.answer(ask(t, f), dhcpv4.MessageTypeNak)
			f.lost()
		})
	})
	t.Run("forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, previous)
			defer f.stop()
			r := ask(t, f)
			d := f.expect(dhcpv4.MessageTypeDiscover)
			near(t, "DISCOVER", d.at.Sub(r.at), 4*time.Second)
			if addrFrom(d.RequestedIPAddress()) != addr {
				t.Errorf("DISCOVER does not ask for the former address: %s", d.Summary())
			}
		})
	})
}

func TestDecline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, func(_ *Options, l *link) { l.user = net.HardwareAddr{2, 0, 0, 0, 0, 7} })
		defer f.stop()
		f.answer(f.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer)
		f.answer(f.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck)
		d := f.expect(dhcpv4.MessageTypeDecline)
		if addrFrom(d.RequestedIPAddress()) != addr || addrFrom(d.ServerIdentifier()) != server || d.unicast || !d.ClientIPAddr.IsUnspecified() {
			t.Errorf("DECLINE: %s", d.Summary())
		}
		f.quiet(10 * time.Second)
		if p := f.Status().Problem; !strings.Contains(p, "used by 02:00:00:00:00:07") {
			t.Errorf("problem %q, want who uses the address", p)
		}
		// The second time it is taken: the network answers for every address.
		f.acquire()
	})
}

func TestServerAnswersARPForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, func(_ *Options, l *link) { l.user = serverHW })
		defer f.stop()
		f.acquire()
	})
}

func TestCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		f.Carrier(true)
		f.acquire()
		f.Carrier(true)
		f.Carrier(false)
		f.Carrier(false)
		f.quiet(31 * time.Minute) // beyond T1
		if s := f.Status(); s.State != NoCarrier || s.Lease == nil {
			t.Errorf("status %+v, want no carrier with the lease held", s)
		}
		f.nothing()

		f.Carrier(true)
		r := f.expect(dhcpv4.MessageTypeRequest)
		if addrFrom(r.RequestedIPAddress()) != addr || r.has(dhcpv4.OptionServerIdentifier) {
			t.Errorf("after carrier: %s, want INIT-REBOOT", r.Summary())
		}
		f.answer(r, dhcpv4.MessageTypeAck)
		f.lease()

		// Too short to be seen but as two events at once: the cable may be in
		// another network.
		f.Carrier(false)
		f.Carrier(true)
		f.answer(f.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak)
		f.lost()
		f.acquire()

		f.Carrier(false)
		f.lost()
		f.quiet(time.Hour)
		if p := f.Status().Problem; !strings.Contains(p, "no carrier") {
			t.Errorf("problem %q", p)
		}
		f.Carrier(true)
		f.expect(dhcpv4.MessageTypeDiscover)
	})
}

// TestNetworkUnanswered: another network without a server that knows us; the
// lease stays in use until its end while a new one is looked for.
func TestNetworkUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		l := f.acquire()
		f.Carrier(false)
		f.Carrier(true)
		f.expect(dhcpv4.MessageTypeRequest)
		for time.Since(l.Acquired) < l.Expiry-3*time.Minute {
			f.expect(dhcpv4.MessageTypeDiscover)
		}
		f.nothing()
		f.lost()
		if got := time.Since(l.Acquired); got != l.Expiry {
			t.Errorf("lost after %v, want %v", got, l.Expiry)
		}
	})
}

func TestReleaseAndRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, nil)
		defer f.stop()
		f.acquire()
		synctest.Wait()
		f.Renew()
		r := f.expect(dhcpv4.MessageTypeRequest)
		if !r.unicast {
			t.Errorf("Renew: %s, want RENEWING at once", r.Summary())
		}
		f.answer(r, dhcpv4.MessageTypeAck)
		f.lease()
		if err := f.Release(); err != nil {
			t.Fatal(err)
		}
		f.lost()
		d := f.expect(dhcpv4.MessageTypeRelease)
		if !d.unicast || addrFrom(d.ClientIPAddr) != addr || addrFrom(d.ServerIdentifier()) != server {
			t.Errorf("RELEASE: %s", d.Summary())
		}
		f.quiet(24 * time.Hour)
		f.Renew()
		f.acquire()
	})
}

func TestSocketTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, func(_ *Options, l *link) { l.failing = errors.New("no such device") })
		defer f.stop()
		f.quiet(time.Minute)
		if p := f.Status().Problem; !strings.Contains(p, "no such device") {
			t.Errorf("problem %q", p)
		}
		f.setFailing(nil)
		f.Carrier(true)
		d := f.expect(dhcpv4.MessageTypeDiscover)
		// The interface goes away and comes back while an offer is awaited.
		f.unplug()
		if again := f.expect(dhcpv4.MessageTypeDiscover); again.at.Sub(d.at) > 2*time.Second {
			t.Errorf("next DISCOVER after %v, want a second", again.at.Sub(d.at))
		}
		f.acquire()
	})
}

func TestNewRejects(t *testing.T) {
	if _, err := New(Options{Interface: "wan", Emit: func(*Lease) {}}); err == nil || !strings.Contains(err.Error(), "hardware address") {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{Interface: "wan", HWAddr: hw}); err == nil {
		t.Error("no Emit: accepted")
	}
}
