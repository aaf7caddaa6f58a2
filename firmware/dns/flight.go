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

// flights are the questions that upstreams have been asked. Equal ones share an
// exchange: fewer packets, and a spoofer has one id and port to guess instead
// of many (RFC 5452 section 5).
type flights struct {
	mu     sync.Mutex
	max    int
	byKey  map[string]*flight
	client map[netip.Addr]int // flights that each client began
	wg     sync.WaitGroup
}

type flight struct {
	key      string
	question []byte // header for the upstream, and question
	do       bool
	client   netip.Addr
	waiters  []waiter
	// begun is what the first upstream said, as far as it is known already.
	begun *outcome
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

func (f *flights) init(limit int) {
	f.max = limit
	f.byKey = make(map[string]*flight)
	f.client = make(map[netip.Addr]int)
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
	client := w.to.Addr()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.byKey[string(q.key())]
	if f == nil {
		// Half for one client, so that a broken or hostile one leaves some.
		if len(fs.byKey) >= fs.max || fs.client[client] >= (fs.max+1)/2 {
			return nil, false
		}
		f = newFlight(q, client)
		begun = f
		fs.byKey[f.key] = f
		fs.client[client]++
		fs.wg.Add(1)
	} else {
		if f.waiting(w, q) {
			return nil, true
		}
		if len(f.waiters) >= maxWaiters {
			return nil, false
		}
	}
	w.asker = q.asker
	w.head = bytes.Clone(q.head)
	f.waiters = append(f.waiters, *w)
	return begun, true
}

func newFlight(q *query, client netip.Addr) *flight {
	f := &flight{key: string(q.key()), question: bytes.Clone(q.head), do: q.do, client: client}
	clear(f.question[:headerLen])
	f.question[2], f.question[3], f.question[5] = flagRD, q.head[3]&flagCD, 1
	return f
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
	for _, w := range s.flights.land(f) {
		if w.reply != nil {
			w.reply <- a.render(nil, &w.asker, 0) // has room for one
			continue
		}
		_, _ = w.l.conn.WriteToUDPAddrPort(a.render(nil, &w.asker, 0), w.to) // a client that is gone asks again
	}
	s.flights.wg.Done()
}

// land ends f: who asks from now on is not among those who wait for it.
func (fs *flights) land(f *flight) []waiter {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.byKey, f.key)
	if fs.client[f.client]--; fs.client[f.client] == 0 {
		delete(fs.client, f.client)
	}
	return f.waiters
}

// inFlight is the number of questions that wait for upstreams.
func (f *flights) inFlight() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.byKey)
}
