// Package dns is the LAN's name server: it answers for the LAN's own names,
// forwards everything else to the upstreams it is given, and caches the answers
// as wire bytes, so that a hit costs a lookup, a copy and a few patched fields.
//
// It is a forwarder, not a resolver: it believes its upstreams, but nobody who
// merely pretends to be one. Each question goes out from a socket that is
// connected for it alone (a new random port, and other sources are not even
// heard) with a random id; the id and the question of an answer are checked;
// equal questions in flight share one exchange, so a spoofer cannot multiply his
// chances (RFC 5452).
//
// Many questions and answers go through one system call, where many wait: on the
// boards' CPUs most of a query's cost is the kernel's.
package dns

import (
	"crypto/rand"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults and bounds, sized for boards with 64 MB of memory.
const (
	DefaultCacheSize = 1000
	maxCacheSize     = 10000
	maxUpstreams     = 8

	defaultTimeout  = 1500 * time.Millisecond
	defaultInFlight = 128
)

// Host is a name of the LAN: a label ("printer"), or a name under the local
// zone ("printer.lan"). Addr may be IPv4 or IPv6.
type Host struct {
	Name string
	Addr netip.Addr
}

// Config is what the server does. The zero value refuses everybody.
type Config struct {
	// Upstreams are asked in order of preference; one that works is kept until
	// it fails. At most 8 are used.
	Upstreams []netip.AddrPort
	// Domain is the router's own name, such as "culvert.lan". What follows its
	// first label is the local zone: names in it are answered from Hosts or do
	// not exist, and are never forwarded.
	Domain string
	// Router is the address that Domain has; unset means the address that the
	// question was sent to.
	Router netip.Addr
	// Hosts are the names of leases and of static hosts. Several hosts of one
	// name share it; of several names of one address the first one is its PTR.
	Hosts []Host
	// Clients are the networks that may ask. The router itself (loopback)
	// always may; everybody else is told REFUSED.
	Clients []netip.Prefix
	// CacheSize is the number of answers kept: 0 means DefaultCacheSize, less
	// than 0 no cache.
	CacheSize int
}

// Options are the server's surroundings.
type Options struct {
	Log  *slog.Logger     // nil: silent
	Now  func() time.Time // nil: time.Now. Only differences matter.
	Rand io.Reader        // query ids; nil: crypto/rand.Reader
	// Timeout is how long one upstream is waited for; 0 means 1.5 s.
	Timeout time.Duration
	// MaxInFlight bounds the different questions that wait for an upstream at
	// the same time; 0 means 128. One client gets at most half of them.
	MaxInFlight int
}

// Stats counts since the start.
type Stats struct {
	Queries          uint64 // all that were answered or forwarded
	Local            uint64 // answered from the local zone and the reserved ones
	Hits             uint64 // answered from the cache
	Misses           uint64 // needed an upstream (some share one exchange)
	Refused          uint64 // malformed, of a kind not served, or not a client
	UpstreamFailures uint64 // exchanges that no upstream answered usefully
	Entries          int    // answers in the cache now
}

// Server is the forwarder. Make one with New.
type Server struct {
	log      *slog.Logger
	now      func() time.Time
	base     time.Time
	timeout  time.Duration
	ids      idSource
	state    atomic.Pointer[state]
	cache    cache
	flights  flights
	first    firsts
	loop     loop
	tcpSlots chan struct{} // upstream TCP exchanges at the same time

	setMu                    sync.Mutex // one SetConfig at a time
	local, refused, failures atomic.Uint64
}

// state is one Config, made ready for use; it never changes.
type state struct {
	zone    *zone
	clients []netip.Prefix
	pool    *pool
}

// New returns a server that refuses everybody until SetConfig.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	s := &Server{log: o.Log, now: o.Now, base: o.Now(), timeout: o.Timeout, tcpSlots: make(chan struct{}, maxUpstreamTCP)}
	s.ids.r = o.Rand
	s.flights.max = o.MaxInFlight
	s.first.s, s.loop.s = s, s
	s.cache.resize(DefaultCacheSize)
	s.state.Store(&state{zone: newZone(Config{}, s.log), pool: newPool(nil)})
	return s
}

// SetConfig replaces the configuration at once; queries in progress finish on
// either. The cache is kept unless the upstreams differ. What cannot be used
// (a host with a malformed name, say) is logged and left out.
func (s *Server) SetConfig(c Config) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	old := s.state.Load()
	st := &state{zone: newZone(c, s.log), pool: old.pool}
	for _, p := range c.Clients {
		st.clients = append(st.clients, p.Masked())
	}
	if len(st.clients) == 0 {
		s.log.Warn("dns: no client networks are configured, so every query is refused")
	}
	ups := c.Upstreams
	if len(ups) > maxUpstreams {
		s.log.Warn("dns: too many upstreams, the rest is not used", "given", len(ups), "used", maxUpstreams)
		ups = ups[:maxUpstreams]
	}
	if !slices.Equal(ups, old.pool.addrs()) {
		st.pool = newPool(ups)
	}
	s.cache.resize(c.CacheSize)
	s.state.Store(st)
	if st.pool != old.pool {
		s.cache.clear(st.pool)
		old.pool.cancel() // its exchanges start again with the new upstreams
		s.first.abandon(old.pool)
	}
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	hits, misses, entries := s.cache.stats()
	st := Stats{
		Local: s.local.Load(), Hits: hits, Misses: misses, Refused: s.refused.Load(),
		UpstreamFailures: s.failures.Load(), Entries: entries,
	}
	st.Queries = st.Local + st.Hits + st.Misses + st.Refused
	return st
}

// seconds is the age of the server: a clock that NTP does not move.
func (s *Server) seconds() uint32 {
	return uint32(s.now().Sub(s.base) / time.Second)
}

// allowed tells whether a may ask.
func (st *state) allowed(a netip.Addr) bool {
	for _, p := range st.clients {
		if p.Contains(a) {
			return true
		}
	}
	return a.IsLoopback()
}

// answer makes the response to pkt in dst[:0]. A nil response without ask means
// that pkt deserves none; ask means that an upstream must be asked, with q
// holding the question. now is the time in seconds.
func (s *Server) answer(st *state, q *query, pkt, dst []byte, from, local netip.Addr, udp bool, now uint32) (resp []byte, ask bool) {
	rcode := q.parse(pkt, udp)
	if rcode == drop {
		return nil, false
	}
	if !st.allowed(from) {
		rcode = rcodeRefused
	}
	if rcode != rcodeOK {
		s.refused.Add(1)
		return q.fail(dst[:0], rcode), false
	}
	if resp := st.zone.answer(dst[:0], q, local); resp != nil {
		s.local.Add(1)
		return q.finish(resp), false
	}
	if a, age := s.cache.get(q.key(), now); a != nil {
		return a.render(dst[:0], &q.asker, age), false
	}
	switch {
	case !q.recurse():
		return q.fail(dst[:0], rcodeRefused), false
	case len(st.pool.ups) == 0:
		s.failures.Add(1)
		return q.fail(dst[:0], rcodeServFail), false
	}
	return nil, true
}

// idSource hands out random 16-bit ids and reads its source in blocks.
type idSource struct {
	mu  sync.Mutex
	r   io.Reader
	buf [256]byte
	n   int // bytes left at the end of buf
}

func (i *idSource) next() (uint16, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n == 0 {
		if _, err := io.ReadFull(i.r, i.buf[:]); err != nil {
			return 0, err
		}
		i.n = len(i.buf)
	}
	at := len(i.buf) - i.n
	i.n -= 2
	return be16(i.buf[at:]), nil
}

// resolve asks the current upstreams, again if they are replaced meanwhile.
func (s *Server) resolve(f *flight) *answer {
	for {
		pool := s.state.Load().pool
		a := s.exchange(pool, f)
		switch {
		case pool.ctx.Err() == nil:
			s.cache.put(pool, f.key, a, s.seconds())
		case s.state.Load().pool != pool:
			continue
		}
		return a
	}
}

// finishFlights ends the exchanges in progress, waits for them, and makes the
// server ready for another Run. The cache stays.
func (s *Server) finishFlights(wait func()) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	st := *s.state.Load()
	st.pool.cancel()
	s.first.abandon(st.pool)
	wait()
	st.pool = newPool(st.pool.addrs())
	s.cache.adopt(st.pool)
	s.state.Store(&st)
}
