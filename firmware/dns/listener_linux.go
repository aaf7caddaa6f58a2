package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxFails is how many errors one after the other a listener forgives: an
	// interface that went down says so once.
	maxFails    = 100
	maxResponse = max(maxLocal, ednsSize+optLen)
	maxBatches  = 4 // that a listener serves in a turn of the loop
)

// listener serves one UDP socket, many questions and answers in a system call.
type listener struct {
	s      *Server
	conn   *net.UDPConn
	rc     syscall.RawConn
	local  netip.Addr
	failed chan error

	mu    sync.Mutex // of a turn
	ended bool

	// Of the loop.
	in, out     *batch
	serve, send func(fd uintptr)
	q           query
	w           waiter
	more        bool // there may be more questions
	fails       int
}

// serveUDP lets the loop answer on c until ctx ends. Hits and local names are
// answered without allocation.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("dns: listen on %v: %w", c.LocalAddr(), err)
	}
	l := &listener{s: s, conn: c, rc: rc, local: addrOf(c.LocalAddr()), failed: make(chan error, 1),
		in: newBatch(maxQuery), out: newBatch(maxResponse)}
	l.serve, l.send = l.serveBatches, l.out.send
	defer l.end()
	if err := s.loop.add(l); err != nil {
		return fmt.Errorf("dns: listen on %v: %w", c.LocalAddr(), err)
	}
	select {
	case err := <-l.failed:
		return fmt.Errorf("dns: receive on %v: %w", c.LocalAddr(), err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end waits for the turn in progress; there is none after it.
func (l *listener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// drained answers some of what has come, and reports whether that was all.
func (l *listener) drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.more = false
	if !l.ended {
		_ = l.rc.Control(l.serve) // does not call it when the socket is closed
	}
	return !l.more
}

func (l *listener) serveBatches(fd uintptr) {
	for range maxBatches {
		l.more = l.batch(fd)
		if !l.more {
			return
		}
	}
}

// batch answers what one call gets, and reports whether there may be more. out
// is empty, and so has room for all of it.
func (l *listener) batch(fd uintptr) bool {
	switch errno := l.in.receive(fd); {
	case errno == unix.EAGAIN:
		return false
	case errno != 0:
		if l.fails++; l.fails > maxFails {
			select {
			case l.failed <- errno:
			default:
			}
			return false
		}
		return true
	}
	l.fails = 0
	s := l.s
	st, now := s.state.Load(), s.seconds()
	for i := range l.in.n {
		l.question(i, st, now)
	}
	l.out.send(fd)
	return l.in.n == batchSize
}

// question answers message i, or has an upstream asked.
func (l *listener) question(i int, st *state, now uint32) {
	from := l.in.from(i)
	if from.Port() == 0 {
		return
	}
	to, tolen := &l.in.addrs[i], l.in.hdrs[i].hdr.Namelen
	slot := l.out.slot()
	resp, ask := l.s.answer(st, &l.q, l.in.packet(i), slot, from.Addr(), l.local, true, now)
	if ask {
		l.w = waiter{l: l, to: from, sa: *to, salen: tolen}
		if !l.s.ask(&l.q, &l.w) {
			resp = l.q.fail(slot, rcodeServFail)
		}
	}
	if resp != nil {
		l.out.add(resp, to, tolen)
	}
}

// flush sends the answers that are ready.
func (l *listener) flush() {
	if err := l.rc.Control(l.send); err != nil {
		l.out.n = 0 // the listener is closed
	}
}
