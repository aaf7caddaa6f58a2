package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFails is how many errors one after the other a listener forgives: an
// interface that went down says so once.
const maxFails = 100

// listener serves one UDP socket, many questions and answers in a system call.
type listener struct {
	s       *Server
	conn    *net.UDPConn
	rc      syscall.RawConn
	local   netip.Addr
	in, out *batch
	late    *batch           // answers that an upstream was needed for; firsts fills it
	send    func(fd uintptr) // late.send
	q       query
	w       waiter
	fails   int
	err     error // why it ended
}

const (
	politeRounds = 4  // full batches without a pause: others may run
	busyRounds   = 64 // full batches without a pause: a flood
)

const maxResponse = max(maxLocal, ednsSize+optLen)

// serveUDP answers on c until it is closed. Hits and local names are answered
// here, without allocation.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	l := &listener{s: s, conn: c, local: addrOf(c.LocalAddr()),
		in: newBatch(maxQuery), out: newBatch(maxResponse), late: newBatch(maxResponse)}
	l.send = l.late.send
	var err error
	if l.rc, err = c.SyscallConn(); err == nil {
		// One Read for all of it: in between it waits as any other would, and a
		// question that comes after drain looked wakes it at once.
		err = l.rc.Read(l.drain)
	}
	if err == nil {
		err = l.err
	}
	return fmt.Errorf("dns: receive on %v: %w", c.LocalAddr(), err)
}

// drain answers what fd has, and reports whether to end.
func (l *listener) drain(fd uintptr) bool {
	for round := 1; ; round++ {
		switch errno := l.in.receive(fd, round%busyRounds == 0); {
		case errno == unix.EAGAIN:
			return false
		case errno != 0:
			if l.fails++; l.fails > maxFails {
				l.err = errno
				return true
			}
			continue
		}
		l.fails = 0
		l.serve()
		l.out.send(fd)
		if l.in.n < batchSize {
			return false // there was no more
		}
		if round%politeRounds == 0 {
			runtime.Gosched()
		}
	}
}

// serve answers the batch that came.
func (l *listener) serve() {
	s := l.s
	st, now := s.state.Load(), s.seconds()
	for i := range l.in.n {
		from := l.in.from(i)
		if from.Port() == 0 {
			continue
		}
		to, tolen := &l.in.addrs[i], l.in.hdrs[i].hdr.Namelen
		slot := l.out.slot()
		resp, ask := s.answer(st, &l.q, l.in.packet(i), slot, from.Addr(), l.local, true, now)
		if ask {
			l.w = waiter{l: l, to: from, sa: *to, salen: tolen}
			if !s.ask(&l.q, &l.w) {
				resp = l.q.fail(slot, rcodeServFail)
			}
		}
		if resp != nil {
			l.out.add(resp, to, tolen)
		}
	}
}

// answerLate sends a to w, now or with others at the next flushLate.
func (l *listener) answerLate(a *answer, w *waiter) {
	if l.late.n == batchSize {
		l.flushLate()
	}
	l.late.add(a.render(l.late.slot(), &w.asker, 0), &w.sa, w.salen)
}

func (l *listener) flushLate() {
	if err := l.rc.Control(l.send); err != nil {
		l.late.n = 0 // the listener is closed
	}
}
