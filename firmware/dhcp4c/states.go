package dhcp4c

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	// requestTries in SELECTING: 4+8+16+32 s, RFC 2131 section 3.1 step 5.
	requestTries = 4
	// declinePause is the least wait after a DECLINE, RFC 2131 section 3.1.
	declinePause = 10 * time.Second
	// renewGap is the least wait between two REQUESTs of RENEWING and
	// REBINDING, RFC 2131 section 4.4.5.
	renewGap = time.Minute
	// silent is the number of messages after which a person is told.
	silent = 3
)

// selecting sends DISCOVER until a server offers something usable. The random
// wait of up to ten seconds that RFC 2131 section 4.4.1 suggests before it is
// left out, as everywhere: a router is to be on line at once.
func (m *machine) selecting(ctx context.Context) step {
	m.enter(Selecting)
	m.ex = m.newExchange()
	var want netip.Addr
	switch {
	case m.lease != nil:
		want = m.lease.Addr.Addr()
	case m.o.Previous != nil:
		want = m.o.Previous.Addr.Addr()
	}
	offer := func(r received) bool {
		if r.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		l, err := leaseFrom(r.DHCPv4, m.o.Now())
		if err != nil {
			m.problem("the DHCP server %s offers nonsense: %v", r.ServerIdentifier(), err)
			return false
		}
		m.candidate = l
		return true
	}
	for n := 0; ; n++ {
		if n == silent && m.lease == nil {
			m.problem("no DHCP server answers on %s; is the cable in the modem's LAN port, and the modem on?", m.o.Interface)
		}
		m.ex.secs = m.elapsed()
		m.broadcast(m.discover(m.ex, want), netip.IPv4Unspecified())
		switch o := m.await(ctx, m.o.Now().Add(m.backoff(n)), offer); o {
		case answered:
			return m.requesting
		case timedOut, expired:
		case disconnected:
			if o := m.pause(ctx, time.Second); o != timedOut {
				return m.interrupted(o)
			}
		default:
			return m.interrupted(o)
		}
	}
}

// requesting asks the chosen server for what it offered.
func (m *machine) requesting(ctx context.Context) step {
	m.enter(Requesting)
	offer := m.candidate
	addr := offer.Addr.Addr()
	for n := range requestTries {
		sent := m.o.Now()
		m.broadcast(m.request(m.ex, addr, offer.Server, netip.Addr{}), netip.IPv4Unspecified())
		var r received
		o := m.await(ctx, sent.Add(m.backoff(n)), func(got received) bool {
			r = got
			return m.reply(got, addr, offer.Server)
		})
		switch {
		case o == answered && r.MessageType() == dhcpv4.MessageTypeNak:
			return m.nak(ctx, r, addr)
		case o == answered:
			return m.accept(ctx, r, sent)
		case o != timedOut:
			return m.interrupted(o)
		}
	}
	m.problem("the DHCP server %s offers %s but does not grant it", offer.Server, addr)
	return m.selecting
}

// rebooting asks whether an address that was ours is still good. One try: a
// server that has forgotten us is silent, and DISCOVER asks for the same.
func (m *machine) rebooting(ctx context.Context) step {
	m.enter(Rebooting)
	m.ex = m.newExchange()
	old := m.lease
	if old == nil {
		old = m.o.Previous
	}
	addr := old.Addr.Addr()
	sent := m.o.Now()
	m.broadcast(m.request(m.ex, addr, netip.Addr{}, netip.Addr{}), netip.IPv4Unspecified())
	var r received
	o := m.await(ctx, sent.Add(m.backoff(0)), func(got received) bool {
		r = got
		return m.reply(got, addr, netip.Addr{})
	})
	switch {
	case o == answered && r.MessageType() == dhcpv4.MessageTypeNak:
		return m.nak(ctx, r, addr)
	case o == answered && m.lease != nil:
		return m.extend(r, sent)
	case o == answered:
		return m.accept(ctx, r, sent)
	}
	return m.interrupted(o)
}

// bound waits for T1, deaf to the network.
func (m *machine) bound(ctx context.Context) step {
	m.close()
	m.enter(Bound)
	t1 := m.lease.Acquired.Add(m.lease.T1 + m.jitter())
	switch o := m.await(ctx, t1, nil); o {
	case timedOut, wanted:
		return m.renewing
	default:
		return m.interrupted(o)
	}
}

// renewing asks the server that granted the lease, by unicast, until T2.
func (m *machine) renewing(ctx context.Context) step {
	m.enter(Renewing)
	l := m.lease
	next := m.extending(ctx, l.Acquired.Add(l.T2), l.Server, func(d *dhcpv4.DHCPv4) {
		if err := m.unicast(d, l); err != nil {
			m.o.Log.Debug("DHCP renewal by unicast failed, broadcasting it", "err", err)
			m.broadcast(d, l.Addr.Addr())
		}
	})
	if next == nil && ctx.Err() == nil {
		return m.rebinding
	}
	return next
}

// rebinding asks any server until the lease ends.
func (m *machine) rebinding(ctx context.Context) step {
	m.enter(Rebinding)
	l := m.lease
	m.problem("the DHCP server %s does not renew the lease of %s", l.Server, l.Addr.Addr())
	next := m.extending(ctx, l.Acquired.Add(l.Expiry), netip.Addr{}, func(d *dhcpv4.DHCPv4) {
		m.broadcast(d, l.Addr.Addr())
	})
	if next == nil && ctx.Err() == nil {
		return m.selecting
	}
	return next
}

// extending sends a REQUEST for the lease again and again until end, waiting
// half of the time that is left, but at least a minute (RFC 2131 section
// 4.4.5). It returns nil when nobody answered in time.
func (m *machine) extending(ctx context.Context, end time.Time, server netip.Addr, send func(*dhcpv4.DHCPv4)) step {
	addr := m.lease.Addr.Addr()
	m.ex = m.newExchange()
	for {
		sent := m.o.Now()
		left := end.Sub(sent)
		if left <= 0 {
			return nil
		}
		if err := m.open(); err != nil {
			m.problem("cannot listen on %s: %v", m.o.Interface, err)
		} else {
			m.ex.secs = m.elapsed()
			send(m.request(m.ex, addr, netip.Addr{}, addr))
		}
		var r received
		o := m.await(ctx, sent.Add(min(left, max(left/2, renewGap))), func(got received) bool {
			r = got
			return m.reply(got, addr, server)
		})
		switch {
		case o == answered && r.MessageType() == dhcpv4.MessageTypeNak:
			return m.nak(ctx, r, addr)
		case o == answered:
			return m.extend(r, sent)
		case o == disconnected:
			if o := m.pause(ctx, time.Second); o != timedOut {
				return m.interrupted(o)
			}
		case o == timedOut, o == wanted:
		default:
			return m.interrupted(o)
		}
	}
}

// noCarrier waits for the link; the lease lives on until it expires.
func (m *machine) noCarrier(ctx context.Context) step {
	m.close()
	m.enter(NoCarrier)
	if m.lease == nil {
		m.problem("%s has no carrier; is the cable plugged in?", m.o.Interface)
	}
	for {
		switch o := m.await(ctx, time.Time{}, nil); o {
		case linkUp:
			m.report(func(s *Status) { s.Problem = "" })
			return m.restart()
		case released, stopped:
			return m.interrupted(o)
		case expired:
			m.problem("%s has no carrier; is the cable plugged in?", m.o.Interface)
		}
	}
}

// idle is after Release.
func (m *machine) idle(ctx context.Context) step {
	m.close()
	m.enter(Released)
	for {
		switch o := m.await(ctx, time.Time{}, nil); o {
		case wanted:
			if m.carrier == carrierIsDown {
				return m.noCarrier
			}
			return m.selecting
		case stopped:
			return nil
		}
	}
}

// reply tells whether r is an ACK for the address or a NAK, by the server
// when that is known.
func (m *machine) reply(r received, addr, server netip.Addr) bool {
	id := addrFrom(r.ServerIdentifier())
	if server.IsValid() && id != server {
		return false
	}
	switch r.MessageType() {
	case dhcpv4.MessageTypeNak:
		return id.IsValid()
	case dhcpv4.MessageTypeAck:
		l, err := leaseFrom(r.DHCPv4, m.o.Now())
		if err != nil {
			m.problem("the DHCP server %s grants nonsense: %v", id, err)
			return false
		}
		return l.Addr.Addr() == addr
	}
	return false
}

// accept takes an ACK for a new address: unless somebody else uses it.
func (m *machine) accept(ctx context.Context, r received, sent time.Time) step {
	l, err := leaseFrom(r.DHCPv4, sent)
	if err != nil { // reply has read it before
		return m.selecting
	}
	addr := l.Addr.Addr()
	if m.o.ProbeWait < 0 || m.refused[addr] {
		return m.grant(l)
	}
	user, err := m.conn.Probe(ctx, addr, m.o.ProbeWait)
	if err != nil {
		m.o.Log.Debug("DHCP: no ARP probe", "err", err)
	}
	// The server, or a relay on its way, may answer ARP for the whole subnet.
	if user == nil || user.String() == r.from.String() {
		return m.grant(l)
	}
	m.problem("%s is granted by the DHCP server %s but used by %s; declined it", addr, l.Server, user)
	if len(m.refused) > 64 {
		clear(m.refused)
	}
	m.refused[addr] = true
	m.broadcast(m.decline(l), netip.IPv4Unspecified())
	m.o.Previous = nil
	if m.holds(addr) {
		m.lose("somebody else uses it")
	}
	if o := m.pause(ctx, declinePause); o != timedOut {
		return m.interrupted(o)
	}
	return m.selecting
}

// extend takes an ACK for the address that is in use.
func (m *machine) extend(r received, sent time.Time) step {
	l, err := leaseFrom(r.DHCPv4, sent)
	if err != nil { // reply has read it before
		return m.selecting
	}
	return m.grant(l)
}

// nak starts again at once; after the second refusal in a row with pauses, or
// a server that always refuses would make us flood the network.
func (m *machine) nak(ctx context.Context, r received, addr netip.Addr) step {
	m.problem("the DHCP server %s refuses us %s: %q", r.ServerIdentifier(), addr, printable(r.Message()))
	previous := m.o.Previous
	m.o.Previous = nil
	switch {
	case m.holds(addr):
		m.lose("the server refused it")
	case m.o.InUse && previous != nil && previous.Addr.Addr() == addr:
		m.o.Emit(nil)
	}
	if m.naks++; m.naks > 1 {
		if o := m.pause(ctx, time.Second<<min(m.naks-2, 6)); o != timedOut {
			return m.interrupted(o)
		}
	}
	return m.selecting
}

func (m *machine) pause(ctx context.Context, d time.Duration) outcome {
	return m.await(ctx, m.o.Now().Add(d), nil)
}

// giveBack sends RELEASE for the lease and ends it.
func (m *machine) giveBack() error {
	l := m.lease
	if l == nil {
		return nil
	}
	err := m.open()
	if err == nil {
		if err = m.unicast(m.release(l), l); err != nil {
			err = m.conn.Broadcast(m.release(l).ToBytes(), l.Addr.Addr())
		}
	}
	m.lose("released")
	if err != nil {
		return fmt.Errorf("release %s: %w", l.Addr.Addr(), err)
	}
	return nil
}

func (m *machine) unicast(d *dhcpv4.DHCPv4, l *Lease) error {
	m.report(func(s *Status) { s.Tries++ })
	return m.conn.Unicast(d.ToBytes(), l.Addr.Addr(), l.Server)
}

// broadcast sends; a failure is reported and then like a lost message.
func (m *machine) broadcast(d *dhcpv4.DHCPv4, src netip.Addr) {
	err := m.open()
	if err == nil {
		err = m.conn.Broadcast(d.ToBytes(), src)
	}
	m.report(func(s *Status) { s.Tries++ })
	if err != nil {
		m.problem("cannot send on %s: %v", m.o.Interface, err)
	}
	m.failed = err != nil
}

// problem tells people, once for each new text.
func (m *machine) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.mu.Lock()
	news := m.status.Problem != text
	m.status.Problem = text
	m.mu.Unlock()
	if news {
		m.o.Log.Warn("DHCP: " + text)
	}
}

// printable keeps a server's text from doing things to terminals.
func printable(s string) string {
	out := make([]byte, 0, min(len(s), 80))
	for i := 0; i < len(s) && len(out) < 80; i++ {
		if s[i] >= ' ' && s[i] < 0x7f {
			out = append(out, s[i])
		}
	}
	return string(out)
}
