// Package dhcp4c is a DHCPv4 client (RFC 2131). It emits leases and touches
// nothing else: who sets addresses is somebody else.
//
// It keeps a packet socket open only while it waits for a server, so that
// nothing looks at the WAN's packets during the days in between.
package dhcp4c

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Options configure a Client.
type Options struct {
	Interface string
	HWAddr    net.HardwareAddr // of Interface
	Hostname  string           // sent to the server when not empty
	// Previous is the lease of before a reboot: the client asks for its
	// address first (INIT-REBOOT, RFC 2131 section 4.4.2). It is not in use
	// until the server confirms it. Nil when there is none.
	Previous *Lease
	// InUse tells that Previous is in use all the same, by the client before
	// this one: a refusal emits nil.
	InUse bool
	// Emit is called with every granted or renewed lease, and with nil when
	// the address must not be used any more. It is called from Run, so it
	// must not block, nor call Release.
	Emit func(*Lease)
	// ProbeWait is how long the answer to an ARP probe for a new address is
	// waited for; 0 means 250 ms, negative means not to probe.
	ProbeWait time.Duration

	Log  *slog.Logger
	Now  func() time.Time // time.Now when nil; must be monotonic
	Rand io.Reader        // crypto/rand when nil
	// Listen opens the network; packet sockets on Interface when nil.
	Listen func() (Conn, error)
}

// Conn is the network as the client needs it.
type Conn interface {
	// Broadcast sends a DHCP message from src, which may be 0.0.0.0, to
	// everybody on the link.
	Broadcast(payload []byte, src netip.Addr) error
	// Unicast sends a DHCP message by the kernel's routes. It fails when src
	// is not configured on the interface.
	Unicast(payload []byte, src, dst netip.Addr) error
	// Receive returns the next DHCP message for a client and the Ethernet
	// address it came from. It fails once the Conn is closed.
	Receive() ([]byte, net.HardwareAddr, error)
	// Probe returns who on the link uses addr, nil when nobody answers.
	Probe(ctx context.Context, addr netip.Addr, wait time.Duration) (net.HardwareAddr, error)
	Close() error
}

// State is where the client is in figure 5 of RFC 2131.
type State string

// The states; NoCarrier and Released are this client's own.
const (
	Init       State = "init"
	Rebooting  State = "rebooting"
	Selecting  State = "selecting"
	Requesting State = "requesting"
	Bound      State = "bound"
	Renewing   State = "renewing"
	Rebinding  State = "rebinding"
	NoCarrier  State = "no carrier"
	Released   State = "released"
)

// Status is for people who look at a client.
type Status struct {
	State State
	Since time.Time // when it entered State
	Tries int       // messages sent in State
	Lease *Lease    // nil when no address may be used
	// Problem says what is wrong and what to do; empty when all is well.
	Problem string
}

// Client is one DHCP client.
type Client struct {
	o    Options
	wake chan struct{} // something is in todo
	done chan struct{} // closed when Run has ended
	once sync.Once

	mu     sync.Mutex
	status Status
	todo   todo
}

// todo is what callers asked for and Run has not done yet. They never wait
// for Run, except in Release: Run may be calling them through Emit.
type todo struct {
	down, up, renew bool // down comes before up when both are set
	release         []chan error
}

// New checks the options and returns a client that waits for Run.
func New(o Options) (*Client, error) {
	if len(o.HWAddr) != 6 {
		return nil, fmt.Errorf("DHCP on %q: hardware address %q is not an Ethernet address", o.Interface, o.HWAddr)
	}
	if o.Emit == nil {
		return nil, errors.New("DHCP client: Emit is missing")
	}
	if p := o.Previous; p != nil && !usable(p.Addr.Addr()) {
		o.Previous = nil
	}
	if o.ProbeWait == 0 {
		o.ProbeWait = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("interface", o.Interface)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Listen == nil {
		o.Listen = func() (Conn, error) { return listen(o.Interface) }
	}
	return &Client{
		o:      o,
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		status: Status{State: Init, Since: o.Now()},
	}, nil
}

// Run gets a lease and keeps it until ctx ends; it returns ctx's error. The
// lease is not released then: a reboot gets the same address again. Run may
// be called once.
func (c *Client) Run(ctx context.Context) error {
	first := false
	c.once.Do(func() { first = true })
	if !first {
		return errors.New("DHCP client: Run called twice")
	}
	defer close(c.done)
	m := &machine{Client: c, carrier: carrierUnknown, refused: map[netip.Addr]bool{}}
	defer m.close()
	return m.run(ctx)
}

// Carrier tells the client about the link, as often as one likes. Without
// carrier it is silent and keeps its lease until it expires; when carrier
// comes back it asks whether the address is still good on this network.
func (c *Client) Carrier(up bool) {
	c.ask(func(t *todo) {
		if t.up = up; !up {
			t.down = true
		}
	})
}

// Renew asks the server now: it renews the lease, tries again at once while
// there is none, and ends the silence after Release.
func (c *Client) Renew() { c.ask(func(t *todo) { t.renew = true }) }

// Release gives the lease back, emits nil, and stays silent until Renew.
// It returns when that is done.
func (c *Client) Release() error {
	done := make(chan error, 1)
	c.ask(func(t *todo) { t.release = append(t.release, done) })
	select {
	case err := <-done:
		return err
	case <-c.done:
		return errors.New("DHCP client: not running")
	}
}

func (c *Client) ask(change func(*todo)) {
	c.mu.Lock()
	change(&c.todo)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Status returns what the client does at this moment.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}
