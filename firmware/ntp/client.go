// Package ntp sets the clock by SNTP (RFC 4330), and keeps a board without a
// clock of its own from starting in 1970.
package ntp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

// Options make a Client.
type Options struct {
	// Servers are names or addresses, asked in this order until one answers.
	Servers []string
	// Set sets the clock; SetClock does.
	Set func(time.Time) error
	// Slew corrects the clock by a small offset without a jump; SlewClock
	// does. Nil: offsets of up to half a second stay.
	Slew func(time.Duration) error
	// SaveLast is called with the right time after the first answer and then
	// every six hours, for Restore after a reboot. May be nil.
	SaveLast func(time.Time)
	// OnSync is called once, when the clock is right for the first time.
	OnSync func()
	// NotBefore is a time that is certainly over, that of the build: a server
	// that claims an earlier one is wrong.
	NotBefore time.Time

	Resolver Resolver // net.DefaultResolver when nil
	// Query asks one server; the network when nil.
	Query func(ctx context.Context, server netip.Addr) (*ntp.Response, error)
	Log   *slog.Logger
	Now   func() time.Time // time.Now when nil
	Rand  io.Reader        // crypto/rand when nil
}

// Resolver finds addresses; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Status is for people.
type Status struct {
	Synced  bool // the clock was set since Run began
	Server  string
	Stratum int
	Offset  time.Duration // what the clock was off by, last time
	At      time.Time     // of the last good answer
	Problem string        // empty when all is well
	// Failing is since when no server gave the time, zero when all is well. It
	// counts on the monotonic clock.
	Failing time.Time
}

const (
	firstWait = 2 * time.Second
	pollEvery = 1024 * time.Second
	// confirmWait is before a jump of a clock that was right is believed.
	confirmWait  = 16 * time.Second
	queryTimeout = 3 * time.Second
	saveEvery    = 6 * time.Hour

	// stepAbove is what is too far to slew: at the kernel's 500 ppm it takes
	// a quarter of an hour.
	stepAbove = 500 * time.Millisecond
	// doubtAbove is what no clock drifts between two polls.
	doubtAbove = 1000 * time.Second
	agree      = time.Second

	perName = 3 // addresses of one name that are tried
)

// Client keeps the clock.
type Client struct {
	o    Options
	wake chan struct{}

	mu      sync.Mutex
	status  Status
	servers []string
	barred  map[netip.Addr]time.Time // who told us to go away, and until when

	// Only Run's goroutine uses these.
	doubt time.Duration // the jump to be confirmed, 0 when there is none
	saved time.Time
	first int // where in servers to begin
}

// New checks the options.
func New(o Options) (*Client, error) {
	if o.Set == nil {
		return nil, errors.New("NTP: Set is missing")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NotBefore.Before(written) {
		o.NotBefore = written
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Query == nil {
		o.Query = query
	}
	return &Client{
		o: o, wake: make(chan struct{}, 1), servers: slices.Clone(o.Servers), barred: map[netip.Addr]time.Time{},
	}, nil
}

// Synced reports whether the clock was right once since Run began.
func (c *Client) Synced() bool { return c.Status().Synced }

// Status returns how things are.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Kick asks at once unless the last answer was good: the WAN came up.
func (c *Client) Kick() {
	if st := c.Status(); st.Synced && st.Problem == "" {
		return
	}
	c.poke()
}

// SetServers exchanges the servers and asks them at once.
func (c *Client) SetServers(servers []string) {
	c.mu.Lock()
	same := slices.Equal(c.servers, servers)
	c.servers = slices.Clone(servers)
	c.mu.Unlock()
	if !same {
		c.poke()
	}
}

func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps the clock until ctx ends and returns its error. It asks until a
// server answers, less and less often, and then every 17 minutes.
func (c *Client) Run(ctx context.Context) error {
	for failures := 0; ; {
		wait := pollEvery
		switch ok := c.round(ctx); {
		case ctx.Err() != nil:
			return ctx.Err()
		case ok && c.doubt != 0:
			failures, wait = 0, confirmWait
		case ok:
			failures = 0
		default:
			wait = min(firstWait<<min(failures, 10), pollEvery)
			failures++
		}
		t := time.NewTimer(c.jitter(wait))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-c.wake:
			failures = 0
		case <-t.C:
		}
		t.Stop()
	}
}

// jitter is d, up to an eighth more or less: many routers boot at once when
// the power is back.
func (c *Client) jitter(d time.Duration) time.Duration {
	var b [2]byte
	if _, err := io.ReadFull(c.o.Rand, b[:]); err != nil {
		return d
	}
	return d - d/8 + d/4*time.Duration(binary.BigEndian.Uint16(b[:]))/65536
}

// round asks the servers in turn until one gives the time.
func (c *Client) round(ctx context.Context) bool {
	c.mu.Lock()
	servers := c.servers
	c.mu.Unlock()
	var last error
	resolved := false
	for i := range servers {
		n := (c.first + i) % len(servers)
		if err := c.ask(ctx, servers[n]); err != nil {
			c.o.Log.Debug("NTP", "server", servers[n], "err", err)
			last = fmt.Errorf("%s: %w", servers[n], err)
			resolved = resolved || !errors.Is(err, errUnresolved)
			continue
		}
		if c.first = n; c.doubt != 0 {
			c.first = n + 1 // let another one confirm it
		}
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	problem := "no NTP server is configured; set one with: set system ntp servers"
	switch {
	case last != nil && !resolved:
		problem = fmt.Sprintf("the names of the NTP servers do not resolve; the last one: %v", last)
	case last != nil:
		problem = fmt.Sprintf("no NTP server answers with the time; the last one: %v", last)
	}
	c.mu.Lock()
	c.status.Problem = problem
	if c.status.Failing.IsZero() {
		c.status.Failing = time.Now()
	}
	c.mu.Unlock()
	return false
}

var errUnresolved = errors.New("no address")

// ask tries the addresses of one server.
func (c *Client) ask(ctx context.Context, server string) error {
	addrs, err := c.resolve(ctx, server)
	if err != nil {
		return err
	}
	for _, a := range addrs[:min(len(addrs), perName)] {
		var r *ntp.Response
		if c.isBarred(a) {
			err = errors.New("asked us not to ask")
			continue
		}
		if r, err = c.o.Query(ctx, a); err != nil {
			continue
		}
		if r.Stratum == 0 {
			c.bar(a, r.KissCode)
		}
		if err = r.Validate(); err != nil {
			continue
		}
		if err = c.apply(server, r); err == nil {
			return nil
		}
	}
	return err
}

func (c *Client) resolve(ctx context.Context, server string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(server); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	addrs, err := c.o.Resolver.LookupNetIP(ctx, "ip4", server)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUnresolved, err)
	case len(addrs) == 0:
		return nil, errUnresolved
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// bar obeys a kiss of death (RFC 5905 section 7.4).
func (c *Client) bar(a netip.Addr, code string) {
	d := time.Hour
	if code == "DENY" || code == "RSTR" {
		d = 24 * time.Hour
	}
	until := c.o.Now().Add(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.barred) > 64 {
		clear(c.barred)
	}
	c.barred[a] = until
}

func (c *Client) isBarred(a netip.Addr) bool {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Before(c.barred[a])
}

// apply corrects the clock by a valid answer.
func (c *Client) apply(server string, r *ntp.Response) error {
	now := c.o.Now()
	right := inEra(r.Time, c.o.NotBefore).Add(r.RTT / 2)
	if right.Before(c.o.NotBefore) {
		return fmt.Errorf("says it is %s, which is over", right.UTC().Format(time.DateOnly))
	}
	// Round: the answer tells the wall clock, not the monotonic one.
	offset := right.Sub(now.Round(0))
	synced := c.Synced()
	if synced && offset.Abs() > doubtAbove && (c.doubt == 0 || (offset-c.doubt).Abs() > agree) {
		c.doubt = offset
		c.o.Log.Warn("NTP: the clock would jump; waiting for a second answer", "server", server, "by", offset)
		return nil
	}
	c.doubt = 0
	var err error
	switch {
	case offset.Abs() > stepAbove:
		err = c.o.Set(right)
	case c.o.Slew != nil:
		err = c.o.Slew(offset)
	}
	if err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	c.mu.Lock()
	c.status = Status{Synced: true, Server: server, Stratum: int(r.Stratum), Offset: offset, At: right}
	c.mu.Unlock()
	if offset.Abs() > stepAbove {
		c.o.Log.Info("NTP: clock set", "server", server, "by", offset.Round(time.Millisecond))
	}
	if !synced && c.o.OnSync != nil {
		c.o.OnSync()
	}
	if c.o.SaveLast != nil && (c.saved.IsZero() || right.Sub(c.saved).Abs() >= saveEvery) {
		c.saved = right
		c.o.SaveLast(right)
	}
	return nil
}

// inEra moves a time by NTP's 2^32 seconds where its 32 bits have wrapped, as
// they do in February 2036.
func inEra(t, notBefore time.Time) time.Time {
	if t.Before(notBefore) {
		if next := t.Add(1 << 32 * time.Second); next.Sub(notBefore) < 1<<31*time.Second {
			return next
		}
	}
	return t
}

// query asks one server over the network.
func query(ctx context.Context, server netip.Addr) (*ntp.Response, error) {
	type result struct {
		r   *ntp.Response
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := ntp.QueryWithOptions(server.String(), ntp.QueryOptions{Timeout: queryTimeout})
		done <- result{r, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-done:
		return r.r, r.err
	}
}
