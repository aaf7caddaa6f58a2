package dns

import (
	"bytes"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWaiters bounds who waits for one question. A client that repeats itself
// waits once.
const maxWaiters = 32

const flightBuckets = 64

// flights are the questions that upstreams have been asked. Equal ones share an
// exchange: fewer packets, and a spoofer has one id and port to guess instead
// of many (RFC 5452 section 5).
type flights struct {
	mu      sync.Mutex
	max     int
	n       int
	buckets [flightBuckets]*flight
	wg      sync.WaitGroup
}

type flight struct {
	key      []byte
	question []byte // header for the upstream, and question
	do       bool
	client   netip.Addr // who began it
	waiters  []waiter
	// begun is what the first upstream came to, as far as it is known already.
	begun *outcome

	bucket int
	next   *flight // in the bucket
	// Memory of key, of question, and of what the first waiter asked.
	keySpace      [nameMax + 3]byte
	questionSpace [headerLen + nameMax + 4]byte
	headSpace     [headerLen + nameMax + 4]byte
}

// waiter is a client that waits. UDP ones are written to, TCP ones get their
// response over reply.
type waiter struct {
	asker
	l     *listener
	to    netip.AddrPort
	sa    unix.RawSockaddrInet6 // the same for the kernel
	salen uint32
	reply chan<- []byte
}

// ask lets w wait for the answer to q and starts an exchange unless there is
// one. It reports whether there was room.
func (s *Server) ask(q *query, w *waiter) bool {
	f, room := s.flights.join(q, w)
	if f != nil {
		s.first.ask(f)
	}
	return room
}

// join lets w wait for the answer to q, and returns the flight when it is a new
// one. It reports whether there was room.
func (fs *flights) join(q *query, w *waiter) (begun *flight, room bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	bucket := bucketOf(q.key())
	f := fs.find(q.key(), bucket)
	switch {
	case f == nil:
		client := w.to.Addr()
		// Half for one client, so that a broken or hostile one leaves some.
		if half := (fs.max + 1) / 2; fs.n >= fs.max || fs.n >= half && fs.of(client) >= half {
			return nil, false
		}
		f = newFlight(q, client)
		f.bucket, f.next = bucket, fs.buckets[bucket]
		fs.buckets[bucket] = f
		fs.n++
		fs.wg.Add(1)
		begun = f
	case f.waiting(w, q):
		return nil, true
	case len(f.waiters) >= maxWaiters:
		return nil, false
	}
	w.asker = q.asker
	var space []byte
	if begun != nil {
		space = f.headSpace[:0]
	}
	w.head = append(space, q.head...)
	f.waiters = append(f.waiters, *w)
	return begun, true
}

// bucketOf needs no secret: there are but a few flights.
func bucketOf(key []byte) int {
	h := uint32(2166136261) // FNV-1a
	for _, c := range key {
		h = (h ^ uint32(c)) * 16777619
	}
	return int((h>>16 ^ h) % flightBuckets)
}

func (fs *flights) find(key []byte, bucket int) *flight {
	for f := fs.buckets[bucket]; f != nil; f = f.next {
		if bytes.Equal(f.key, key) {
			return f
		}
	}
	return nil
}

// of counts the flights that client began.
func (fs *flights) of(client netip.Addr) (n int) {
	for _, f := range fs.buckets {
		for ; f != nil; f = f.next {
			if f.client == client {
				n++
			}
		}
	}
	return n
}

var flightPool = sync.Pool{New: func() any { return new(flight) }}

func newFlight(q *query, client netip.Addr) *flight {
	f := flightPool.Get().(*flight)
	f.key = append(f.keySpace[:0], q.key()...)
	f.question = append(f.questionSpace[:0], q.head...)
	f.do, f.client = q.do, client
	clear(f.question[:headerLen])
	f.question[2], f.question[3], f.question[5] = flagRD, q.head[3]&flagCD, 1
	return f
}

// release ends the use of f, which has landed and answered.
func (fs *flights) release(f *flight) {
	clear(f.waiters)
	f.waiters, f.begun, f.next = f.waiters[:0], nil, nil
	flightPool.Put(f)
	fs.wg.Done()
}

// waiting tells whether w is a repetition.
func (f *flight) waiting(w *waiter, q *query) bool {
	for i := range f.waiters {
		o := &f.waiters[i]
		if w.reply == nil && o.to == w.to && o.head[0] == q.head[0] && o.head[1] == q.head[1] {
			return true
		}
	}
	return false
}

// fly gets the answer and gives it to all who wait.
func (s *Server) fly(f *flight) {
	a := s.resolve(f)
	s.flights.land(f)
	for i := range f.waiters {
		w := &f.waiters[i]
		if w.reply != nil {
			w.reply <- a.render(nil, &w.asker, 0) // has room for one
			continue
		}
		_, _ = w.l.conn.WriteToUDPAddrPort(a.render(nil, &w.asker, 0), w.to) // a client that is gone asks again
	}
	s.flights.release(f)
}

// land ends f: who asks from now on is not among those who wait for it.
func (fs *flights) land(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	at := &fs.buckets[f.bucket]
	for *at != f {
		at = &(*at).next
	}
	*at = f.next
	fs.n--
}

// inFlight is the number of questions that wait for upstreams.
func (fs *flights) inFlight() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.n
}
