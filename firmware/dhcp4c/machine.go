package dhcp4c

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"time"
)

type carrier int

const (
	carrierUnknown carrier = iota // nobody told us: we try
	carrierIsUp
	carrierIsDown
)

// outcome is why a wait ended.
type outcome int

const (
	timedOut outcome = iota
	answered
	expired      // the lease that was held ran out
	linkDown     // carrier is lost
	linkUp       // carrier is back
	wanted       // Renew was called
	released     // Release was called and done
	stopped      // ctx is over
	disconnected // the packet socket failed
)

// machine is the state of Run; only its goroutine uses it.
type machine struct {
	*Client
	carrier carrier
	conn    Conn
	inbox   <-chan received // nil while there is no conn

	lease *Lease // in use: emitted and not expired
	// candidate is what was offered, while it is being requested.
	candidate *Lease
	ex        exchange
	naks      int  // refusals since the last lease
	failed    bool // the last message could not be sent
	// refused holds addresses that we declined once. When a server offers one
	// again, it is taken: some networks answer ARP for every address.
	refused map[netip.Addr]bool
}

type step func(context.Context) step

func (m *machine) run(ctx context.Context) error {
	next := m.selecting
	if m.o.Previous != nil {
		next = m.rebooting
	}
	for next != nil && ctx.Err() == nil {
		next = next(ctx)
	}
	return ctx.Err()
}

// interrupted maps an outcome that no state handles itself to the next state.
func (m *machine) interrupted(o outcome) step {
	switch o {
	case linkDown:
		return m.noCarrier
	case released:
		return m.idle
	case stopped:
		return nil
	case linkUp:
		return m.restart()
	}
	return m.selecting
}

// restart is where to go when the network may be another one.
func (m *machine) restart() step {
	if m.lease != nil || m.o.Previous != nil {
		return m.rebooting
	}
	return m.selecting
}

func (m *machine) enter(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status.State != s {
		m.o.Log.Debug("DHCP state", "from", m.status.State, "to", s)
	}
	m.status = Status{State: s, Since: m.o.Now(), Lease: m.lease, Problem: m.status.Problem}
}

func (m *machine) report(change func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.status)
}

// grant takes a new or renewed lease into use.
func (m *machine) grant(l *Lease) step {
	m.naks = 0
	m.lease, m.candidate, m.o.Previous = l, nil, nil
	m.report(func(s *Status) { s.Problem = "" })
	m.o.Log.Info("DHCP lease", "address", l.Addr, "router", l.Router, "server", l.Server, "for", l.Expiry)
	m.o.Emit(l)
	return m.bound
}

// lose gives up the lease, if there is one.
func (m *machine) lose(why string) {
	m.candidate, m.o.Previous = nil, nil
	m.report(func(s *Status) { s.Lease = nil })
	if m.lease == nil {
		return
	}
	m.o.Log.Warn("DHCP lease lost", "address", m.lease.Addr, "why", why)
	m.lease = nil
	m.o.Emit(nil)
}

// holds reports whether addr is the one in use.
func (m *machine) holds(addr netip.Addr) bool {
	return m.lease != nil && m.lease.Addr.Addr() == addr
}

// random fills b. A failing source is no reason to be without Internet: the
// numbers only have to differ from those of other clients.
func (m *machine) random(b []byte) {
	if _, err := io.ReadFull(m.o.Rand, b); err != nil {
		m.o.Log.Warn("DHCP: no random numbers", "err", err)
		binary.NativeEndian.PutUint16(b, uint16(m.o.Now().UnixNano()))
	}
}

// jitter is uniform over -1 s to +1 s (RFC 2131 section 4.1).
func (m *machine) jitter() time.Duration {
	var b [2]byte
	m.random(b[:])
	n := int64(binary.BigEndian.Uint16(b[:])) - 32768
	return time.Duration(n) * time.Second / 32768
}

// backoff is the wait after the n-th message, counted from 0: 4, 8, 16, 32
// and then 64 seconds, each with jitter (RFC 2131 section 4.1).
func (m *machine) backoff(n int) time.Duration {
	return 4*time.Second<<min(n, 4) + m.jitter()
}

// open makes sure that replies are heard.
func (m *machine) open() error {
	if m.conn != nil {
		return nil
	}
	conn, err := m.o.Listen()
	if err != nil {
		return err
	}
	inbox := make(chan received)
	go m.receive(conn, inbox)
	m.conn, m.inbox = conn, inbox
	return nil
}

// close ends listening; the receiver ends when the inbox is drained.
func (m *machine) close() {
	if m.conn == nil {
		return
	}
	m.conn.Close()
	for range m.inbox {
	}
	m.conn, m.inbox = nil, nil
}

// receive hands on the replies to this client until conn is closed.
func (m *machine) receive(conn Conn, inbox chan<- received) {
	defer close(inbox)
	for {
		payload, from, err := conn.Receive()
		if err != nil {
			return
		}
		if d := parse(payload, m.o.HWAddr); d != nil {
			inbox <- received{d, from}
		}
	}
}

// await waits until the time, or until accept takes a reply, or until
// something happens that the state has to know of. The lease's own end is
// kept in every state. A zero time waits for ever.
func (m *machine) await(ctx context.Context, until time.Time, accept func(received) bool) outcome {
	var timer <-chan time.Time
	o := timedOut
	if m.lease != nil {
		if end := m.lease.Acquired.Add(m.lease.Expiry); until.IsZero() || !end.After(until) {
			until, o = end, expired
		}
	}
	if !until.IsZero() {
		t := time.NewTimer(max(until.Sub(m.o.Now()), 0))
		defer t.Stop()
		timer = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return stopped
		case <-timer:
			if o == expired {
				m.lose("it expired and no server renewed it")
			}
			return o
		case r, ok := <-m.inbox:
			if !ok {
				m.close()
				return disconnected
			}
			if accept != nil && r.TransactionID == m.ex.xid && accept(r) {
				return answered
			}
		case <-m.wake:
			if o, ok := m.next(); ok {
				return o
			}
		}
	}
}

// next does or reports the first thing that callers asked for.
func (m *machine) next() (outcome, bool) {
	m.mu.Lock()
	t := m.todo
	m.todo = todo{}
	if t.down && t.up { // a short interruption: first the one, then the other
		m.todo = t
		m.todo.down = false
		t = todo{down: true}
	}
	if len(t.release) > 0 {
		m.todo = todo{down: t.down, up: t.up}
	}
	more := m.todo.up || m.todo.down
	tries := m.status.Tries
	m.mu.Unlock()
	if more {
		m.ask(func(*todo) {})
	}
	if len(t.release) > 0 {
		err := m.giveBack()
		for _, done := range t.release {
			done <- err
		}
		return released, true
	}
	was := m.carrier
	switch {
	case t.down:
		m.carrier = carrierIsDown
		return linkDown, was != carrierIsDown
	case t.up:
		m.carrier = carrierIsUp
		// The first word of a link that was up all the time is no news,
		// unless nothing got through so far.
		deaf := m.lease == nil && (m.failed || tries > 1)
		if was == carrierIsDown || was == carrierUnknown && deaf {
			return linkUp, true
		}
	}
	return wanted, t.renew
}
