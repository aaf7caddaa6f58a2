// Package dhcp4d is a DHCPv4 server for one LAN (RFC 2131). It is
// authoritative there: it refuses addresses that are wrong, and takes over
// leases that fit but that it has forgotten.
//
// Leases run on the monotonic clock, so that setting the clock, which on a
// board without one happens minutes after the first lease, changes none.
package dhcp4d

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Options make a Server.
type Options struct {
	Config Config
	Store  Store // nothing outlives the Server when nil
	Log    *slog.Logger
	Now    func() time.Time // time.Now when nil; must be monotonic
	// OnChange is called from Run with all leases that hold, when the list of
	// addresses, devices and names is another one; not at renewals.
	OnChange func([]Lease)
	// ProbeWait is how long an ARP probe for an address that is new to its
	// client takes; 0 means 250 ms, negative means not to probe.
	ProbeWait time.Duration
	// Listen opens the network; sockets on the interface when nil.
	Listen func(ifname string) (Conn, error)
}

// Conn is the network as the server needs it.
type Conn interface {
	// Receive returns the next message to a DHCP server. It fails once the
	// Conn is closed.
	Receive() ([]byte, error)
	// Send sends a message to a client whose Ethernet address is known, and
	// which may not answer ARP yet.
	Send(payload []byte, src, dst netip.Addr, to net.HardwareAddr) error
	// Probe returns who on the LAN uses addr, nil when nobody answers.
	Probe(ctx context.Context, addr netip.Addr, wait time.Duration) (net.HardwareAddr, error)
	// Check fails when the interface is no longer the one that was opened.
	Check() error
	Close() error
}

// Server is a DHCP server.
type Server struct {
	o      Options
	probed chan probeResult
	wake   chan struct{} // SetConfig did something

	mu     sync.Mutex
	t      *table
	probes int // under way
	ctx    context.Context
	conn   Conn

	// Only Run's goroutine uses these.
	told      []Lease // to OnChange
	fullSince time.Time
	refused   map[string]bool // names, see refuseName
	last      time.Time       // of the last tick
	saveAt    time.Time       // zero: nothing to write
}

// tickEvery bounds how long a lease is still listed after its end.
const tickEvery = 10 * time.Second

// New checks the configuration and loads the leases.
func New(o Options) (*Server, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Store == nil {
		o.Store = noStore{}
	}
	if o.OnChange == nil {
		o.OnChange = func([]Lease) {}
	}
	if o.ProbeWait == 0 {
		o.ProbeWait = 250 * time.Millisecond
	}
	if o.Listen == nil {
		o.Listen = listen
	}
	s := &Server{o: o, probed: make(chan probeResult, maxProbes), wake: make(chan struct{}, 1), t: newTable(o.Config, o.Now), refused: map[string]bool{}}
	leases, err := o.Store.Load()
	if err != nil {
		// Clients keep their addresses by asking for them: no reason to stop.
		o.Log.Warn("DHCP server: leases of before cannot be read", "err", err)
	}
	s.t.load(leases)
	return s, nil
}

// Run serves until ctx ends or the interface goes away, and writes what is
// not written yet. It returns ctx's error, or why it cannot serve; after that
// it may be called again.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.o.Listen(s.o.Config.Interface)
	if err != nil {
		return fmt.Errorf("DHCP server: %w", err)
	}
	s.mu.Lock()
	s.ctx, s.conn = ctx, conn
	s.mu.Unlock()

	requests := make(chan *dhcpv4.DHCPv4)
	failed := make(chan error, 1)
	go receive(ctx, conn, requests, failed)
	defer func() {
		cancel()
		conn.Close()
		<-failed
		if err := s.flush(); err != nil {
			s.o.Log.Warn("DHCP server: leases cannot be written", "err", err)
		}
	}()

	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	s.last = s.o.Now()
	for ticked := true; ; {
		save := s.settle(ticked)
		ticked = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			failed <- err
			return fmt.Errorf("DHCP server on %s: %w", s.o.Config.Interface, err)
		case req := <-requests:
			s.handle(req)
		case p := <-s.probed:
			s.afterProbe(p)
		case <-s.wake:
		case <-tick.C:
			if err := conn.Check(); err != nil {
				return fmt.Errorf("DHCP server: %w", err)
			}
			s.checkClock()
			ticked = true
		case <-save:
			s.save()
		}
	}
}

// receive parses in a goroutine of its own, and drops what is no request.
func receive(ctx context.Context, conn Conn, requests chan<- *dhcpv4.DHCPv4, failed chan<- error) {
	for {
		payload, err := conn.Receive()
		if err != nil {
			failed <- err
			return
		}
		if req := parse(payload); req != nil {
			select {
			case requests <- req:
			case <-ctx.Done():
			}
		}
	}
}

// settle tells OnChange about changes, which at a tick may be leases that ran
// out, and returns when to write.
func (s *Server) settle(ticked bool) <-chan time.Time {
	s.mu.Lock()
	var leases []Lease
	if s.t.changed || ticked {
		leases = s.t.leases()
	}
	s.t.changed = false
	dirty := len(s.t.dirty) > 0
	s.mu.Unlock()
	if leases != nil && (s.told == nil || !slices.EqualFunc(leases, s.told, sameLease)) {
		s.told = leases
		s.o.OnChange(slices.Clone(leases))
	}
	if !dirty {
		s.saveAt = time.Time{}
		return nil
	}
	if s.saveAt.IsZero() {
		s.saveAt = s.o.Now().Add(saveDelay)
	}
	return time.After(s.saveAt.Sub(s.o.Now()))
}

func (s *Server) save() {
	s.saveAt = time.Time{}
	if err := s.flush(); err != nil {
		s.saveAt = s.o.Now().Add(saveRetry)
		s.o.Log.Warn("DHCP server: leases cannot be written; they last until a restart", "err", err)
	}
}

// checkClock writes all leases again when the wall clock was set: what is
// stored counts by the clock of before.
func (s *Server) checkClock() {
	now := s.o.Now()
	jump := now.Round(0).Sub(s.last.Round(0)) - now.Sub(s.last)
	s.last = now
	if jump.Abs() > clockStep {
		s.mu.Lock()
		s.t.rewrite()
		s.mu.Unlock()
	}
}

// SetConfig changes the configuration of a running server. When the subnet
// changes the leases follow with their host part; their clients are refused
// their old address and get the new one. The interface cannot change.
func (s *Server) SetConfig(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if c.Interface != s.o.Config.Interface {
		return errors.New("DHCP server: the interface cannot change while it runs; start a new server")
	}
	s.mu.Lock()
	same := reflect.DeepEqual(c, s.t.cfg)
	if !same {
		s.t.reconfigure(c)
	}
	s.mu.Unlock()
	if same { // callers say it again with every event
		return nil
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// Leases returns the leases that hold, ordered by address.
func (s *Server) Leases() []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.t.leases()
}

type noStore struct{}

func (noStore) Load() ([]Lease, error)    { return nil, nil }
func (noStore) Save([]Lease) error        { return nil }
func (noStore) Delete([]netip.Addr) error { return nil }
