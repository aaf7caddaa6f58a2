package dhcp4d

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func mac(n int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}
}

func config() Config {
	return Config{
		Interface: "lan", Router: netip.MustParsePrefix("192.168.1.1/24"),
		PoolStart: ip("192.168.1.100"), PoolEnd: ip("192.168.1.249"),
		LeaseTime: time.Hour, Domain: "lan", Reserved: []string{"culvert"},
	}
}

// now is the time in tests: synctest's own begins in 2000, which is before any
// set clock.
func now() time.Time { return time.Now().Add(27 * 365 * 24 * time.Hour) }

// memStore is the store on a disk in memory.
type memStore struct {
	mu     sync.Mutex
	leases map[netip.Addr]Lease
	writes int // transactions
	fail   error
}

func (m *memStore) Load() ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Lease
	for _, l := range m.leases {
		out = append(out, l)
	}
	return out, m.fail
}

func (m *memStore) Save(ls []Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.writes++
	if m.leases == nil {
		m.leases = map[netip.Addr]Lease{}
	}
	for _, l := range ls {
		l.Expires = l.Expires.Round(0)
		m.leases[l.Addr] = l
	}
	return nil
}

func (m *memStore) Delete(addrs []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.writes++
	for _, a := range addrs {
		delete(m.leases, a)
	}
	return nil
}

func (m *memStore) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func (m *memStore) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memStore) addrs() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []netip.Addr
	for a := range m.leases {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// answered is a reply as the LAN sees it.
type answered struct {
	*dhcpv4.DHCPv4
	dst netip.Addr
	to  net.HardwareAddr
}

type fakeConn struct {
	in     chan []byte
	out    chan answered
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	users map[netip.Addr]net.HardwareAddr
	check error
}

func (c *fakeConn) Receive() ([]byte, error) {
	select {
	case b := <-c.in:
		return b, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *fakeConn) Send(payload []byte, src, dst netip.Addr, to net.HardwareAddr) error {
	d, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return err
	}
	if addrFrom(d.ServerIdentifier()) != src && d.MessageType() != dhcpv4.MessageTypeNak {
		return errors.New("the server identifier is not the source address")
	}
	c.out <- answered{d, dst, to}
	return nil
}

func (c *fakeConn) Probe(ctx context.Context, a netip.Addr, wait time.Duration) (net.HardwareAddr, error) {
	c.mu.Lock()
	user := c.users[a]
	c.mu.Unlock()
	if user == nil {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return user, nil
}

func (c *fakeConn) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.check
}

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// lan is a running server with the test as all of its clients.
type lan struct {
	*Server
	t       *testing.T
	conn    *fakeConn
	store   *memStore
	changes chan []Lease
	stop    func()
}

func start(t *testing.T, change func(*Options)) *lan {
	t.Helper()
	l := &lan{t: t, store: &memStore{}, changes: make(chan []Lease, 1000), conn: &fakeConn{
		in: make(chan []byte), out: make(chan answered, 1000), closed: make(chan struct{}), users: map[netip.Addr]net.HardwareAddr{},
	}}
	o := Options{
		Now: now, Config: config(), Store: l.store, OnChange: func(ls []Lease) { l.changes <- ls },
		Listen: func(string) (Conn, error) { return l.conn, nil },
	}
	if change != nil {
		change(&o)
	}
	if o.Store != l.store {
		l.store = o.Store.(*memStore)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l.Server = s
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	synctest.Wait()
	return l
}

// host is a client on the LAN.
type host struct {
	l    *lan
	hw   net.HardwareAddr
	id   []byte
	name string
	flag bool // broadcast
}

func (l *lan) host(n int) *host { return &host{l: l, hw: mac(n)} }

func (h *host) message(typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: dhcpv4.TransactionID{1, 2, 3, h.hw[5]},
		ClientHWAddr: h.hw, Options: dhcpv4.Options{},
	}
	if h.flag {
		d.SetBroadcast()
	}
	d.UpdateOption(dhcpv4.OptMessageType(typ))
	if h.id != nil {
		d.UpdateOption(dhcpv4.OptClientIdentifier(h.id))
	}
	if h.name != "" {
		d.UpdateOption(dhcpv4.OptHostName(h.name))
	}
	for _, m := range mods {
		m(d)
	}
	return d
}

// say sends a message and returns the answer, nil when there is none.
func (h *host) say(typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) *answered {
	h.l.t.Helper()
	h.l.conn.in <- h.message(typ, mods...).ToBytes()
	return h.hear()
}

func (h *host) hear() *answered {
	h.l.t.Helper()
	select {
	case a := <-h.l.conn.out:
		if a.TransactionID[3] != h.hw[5] || a.ClientHWAddr.String() != h.hw.String() {
			h.l.t.Errorf("answer for %s, want %s", a.ClientHWAddr, h.hw)
		}
		return &a
	case <-time.After(time.Second):
		return nil
	}
}

func requested(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice()))
}

func serverID(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(a.AsSlice()))
}

func ciaddr(a netip.Addr) dhcpv4.Modifier { return dhcpv4.WithClientIP(a.AsSlice()) }

// want checks the type of an answer and returns the address in it.
func (h *host) want(a *answered, typ dhcpv4.MessageType) netip.Addr {
	h.l.t.Helper()
	if a == nil {
		h.l.t.Fatalf("no answer, want %s", typ)
	}
	if a.MessageType() != typ {
		h.l.t.Fatalf("answer %s, want %s", a.MessageType(), typ)
	}
	return addrFrom(a.YourIPAddr)
}

// discover returns the offered address.
func (h *host) discover(mods ...dhcpv4.Modifier) netip.Addr {
	h.l.t.Helper()
	return h.want(h.say(dhcpv4.MessageTypeDiscover, mods...), dhcpv4.MessageTypeOffer)
}

// get goes all the way to a lease.
func (h *host) get(mods ...dhcpv4.Modifier) netip.Addr {
	h.l.t.Helper()
	a := h.discover(mods...)
	router := h.l.router()
	return h.want(h.say(dhcpv4.MessageTypeRequest, requested(a), serverID(router)), dhcpv4.MessageTypeAck)
}

// renew asks for more time and returns the answer.
func (h *host) renew(a netip.Addr) *answered {
	h.l.t.Helper()
	return h.say(dhcpv4.MessageTypeRequest, ciaddr(a))
}

func (l *lan) router() netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Server.t.cfg.Router.Addr()
}

// lease returns the lease of an address, nil when there is none.
func (l *lan) lease(a netip.Addr) *Lease {
	for _, x := range l.Leases() {
		if x.Addr == a {
			return &x
		}
	}
	return nil
}
