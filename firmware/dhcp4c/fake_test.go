package dhcp4c

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	hw       = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	serverHW = net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}
	server   = netip.MustParseAddr("192.0.2.1")
	addr     = netip.MustParseAddr("192.0.2.77")
)

// sent is a message of the client as the server sees it.
type sent struct {
	*dhcpv4.DHCPv4
	at      time.Time
	src     netip.Addr
	unicast bool
}

func (s sent) has(c dhcpv4.OptionCode) bool { return s.Options.Has(c) }

type frame struct {
	payload []byte
	from    net.HardwareAddr
}

// link is a wire in memory, the test is the server on it.
type link struct {
	t         *testing.T
	sent      chan sent
	noUnicast bool

	mu      sync.Mutex
	user    net.HardwareAddr // who answers probes
	probed  []netip.Addr
	conn    *fakeConn // open now
	opened  int
	failing error // of Listen
}

type fakeConn struct {
	l      *link
	in     chan frame
	closed chan struct{}
	broken chan struct{} // closed when the interface goes away
}

func (l *link) listen() (Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing != nil {
		return nil, l.failing
	}
	if l.conn != nil {
		l.t.Error("a second socket was opened while the first is open")
	}
	l.opened++
	l.conn = &fakeConn{l: l, in: make(chan frame, 16), closed: make(chan struct{}), broken: make(chan struct{})}
	return l.conn, nil
}

// unplug makes the interface of the open socket go away.
func (l *link) unplug() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.conn.broken)
}

func (l *link) setFailing(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = err
}

func (l *link) isOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn != nil
}

func (c *fakeConn) deliver(payload []byte, src netip.Addr, unicast bool) error {
	d, err := dhcpv4.FromBytes(payload)
	if err != nil {
		c.l.t.Errorf("the client sends what cannot be read: %v", err)
		return err
	}
	if len(payload) < 300 {
		c.l.t.Errorf("the client sends %d bytes; BOOTP wants at least 300", len(payload))
	}
	c.l.sent <- sent{d, time.Now(), src, unicast}
	return nil
}

func (c *fakeConn) Broadcast(payload []byte, src netip.Addr) error {
	return c.deliver(payload, src, false)
}

func (c *fakeConn) Unicast(payload []byte, src, dst netip.Addr) error {
	if c.l.noUnicast {
		return errors.New("cannot assign requested address")
	}
	if dst != server {
		c.l.t.Errorf("unicast to %s, want the server %s", dst, server)
	}
	return c.deliver(payload, src, true)
}

func (c *fakeConn) Receive() ([]byte, net.HardwareAddr, error) {
	select {
	case f := <-c.in:
		return f.payload, f.from, nil
	case <-c.closed:
		return nil, nil, net.ErrClosed
	case <-c.broken:
		return nil, nil, errors.New("network is down")
	}
}

func (c *fakeConn) Probe(ctx context.Context, a netip.Addr, wait time.Duration) (net.HardwareAddr, error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.probed = append(c.l.probed, a)
	return c.l.user, nil
}

func (c *fakeConn) Close() error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.conn = nil
	close(c.closed)
	return nil
}

// put brings a frame to the client if it listens.
func (l *link) put(payload []byte) {
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c == nil {
		l.t.Fatal("the client does not listen")
	}
	c.in <- frame{payload, serverHW}
}

// expect returns the client's next message, which has to be of the type.
func (l *link) expect(typ dhcpv4.MessageType) sent {
	l.t.Helper()
	select {
	case s := <-l.sent:
		if s.MessageType() != typ {
			l.t.Fatalf("client sent %s, want %s", s.MessageType(), typ)
		}
		return s
	case <-time.After(1000 * time.Hour):
		l.t.Fatalf("client is silent, want %s", typ)
	}
	panic("unreachable")
}

// quiet checks that the client sends nothing for the time.
func (l *link) quiet(d time.Duration) {
	l.t.Helper()
	select {
	case s := <-l.sent:
		l.t.Fatalf("client sent %s, want silence", s.MessageType())
	case <-time.After(d):
	}
}

// reply makes the server's answer to a message, changed by the modifiers.
func reply(to *dhcpv4.DHCPv4, typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: to.HWType, TransactionID: to.TransactionID,
		ClientHWAddr: to.ClientHWAddr, ClientIPAddr: to.ClientIPAddr, Options: dhcpv4.Options{},
	}
	d.UpdateOption(dhcpv4.OptMessageType(typ))
	d.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	if typ != dhcpv4.MessageTypeNak {
		d.YourIPAddr = addr.AsSlice()
		d.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
		d.UpdateOption(dhcpv4.OptRouter(server.AsSlice()))
		d.UpdateOption(dhcpv4.OptDNS(server.AsSlice()))
		d.UpdateOption(dhcpv4.OptIPAddressLeaseTime(time.Hour))
	}
	for _, mod := range mods {
		mod(d)
	}
	return d
}

func (l *link) answer(to sent, typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) {
	l.put(reply(to.DHCPv4, typ, mods...).ToBytes())
}

// fixture is a running client on a wire.
type fixture struct {
	*link
	*Client
	emitted chan *Lease
	cancel  context.CancelFunc
	ended   chan error
}

// start runs a client inside a synctest bubble.
func start(t *testing.T, change func(*Options, *link)) *fixture {
	t.Helper()
	f := &fixture{
		link:    &link{t: t, sent: make(chan sent, 16)},
		emitted: make(chan *Lease, 16),
		ended:   make(chan error, 1),
	}
	o := Options{
		Interface: "wan", HWAddr: hw, Hostname: "culvert",
		Emit:   func(l *Lease) { f.emitted <- l },
		Log:    slog.New(slog.DiscardHandler),
		Rand:   rand.NewChaCha8([32]byte{1}),
		Listen: f.listen,
	}
	if change != nil {
		change(&o, f.link)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f.Client = c
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(t.Context())
	go func() { f.ended <- c.Run(ctx) }()
	return f
}

// stop ends the client and checks that it ends as it should.
func (f *fixture) stop() {
	f.t.Helper()
	f.cancel()
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		f.t.Errorf("Run returned %v, want %v", err, context.Canceled)
	}
	if f.isOpen() {
		f.t.Error("the socket is still open after Run")
	}
}

// lease waits for a grant.
func (f *fixture) lease() *Lease {
	f.t.Helper()
	select {
	case l := <-f.emitted:
		if l == nil {
			f.t.Fatal("lease lost, want a lease")
		}
		return l
	case <-time.After(1000 * time.Hour):
		f.t.Fatal("no lease")
	}
	return nil
}

// lost waits for the loss of the lease.
func (f *fixture) lost() {
	f.t.Helper()
	select {
	case l := <-f.emitted:
		if l != nil {
			f.t.Fatalf("got the lease %v, want its loss", l.Addr)
		}
	case <-time.After(1000 * time.Hour):
		f.t.Fatal("the lease is not lost")
	}
}

// nothing checks that nothing is emitted at this moment.
func (f *fixture) nothing() {
	f.t.Helper()
	select {
	case l := <-f.emitted:
		f.t.Fatalf("emitted %v, want nothing", l)
	default:
	}
}

// acquire goes through DISCOVER to ACK.
func (f *fixture) acquire(mods ...dhcpv4.Modifier) *Lease {
	f.t.Helper()
	f.answer(f.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer, mods...)
	f.answer(f.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck, mods...)
	return f.lease()
}
