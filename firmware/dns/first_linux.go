package dns

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxIdle sockets are kept while questions come, fewIdle when none is waited for.
	maxIdle, fewIdle = 64, 4
	// timeoutTicks are the ticks in a time-out: a question is waited for as long
	// as that, and up to a tick more. It costs no look at the clock, which is a
	// system call on MIPS.
	timeoutTicks = 8
)

// firsts asks the preferred upstream the first time, which nearly always is all
// that a question takes: the loop waits for the answers to all of them, and their
// sockets are used again. What takes more than that goes on in fly.
type firsts struct {
	s       *Server
	mu      sync.Mutex
	running bool
	ep      int             // the loop's epoll descriptor
	socks   []*askSocket    // by their place, which is what epoll tells
	idle    [2][]*askSocket // IPv4, IPv6
	busy    int             // sockets with a flight
	tick    uint32          // now
	timer   *time.Timer
	armed   bool
	buf     [maxUDP]byte
}

// open makes firsts ready to ask; ep tells the loop of answers.
func (fs *firsts) open(ep int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.ep, fs.running = ep, true
}

// shut ends it, when no flight is left.
func (fs *firsts) shut() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.running = false
	for _, s := range fs.socks {
		if s != nil {
			_ = unix.Close(s.fd)
		}
	}
	fs.socks, fs.idle = nil, [2][]*askSocket{}
}

// ask begins the exchange of f.
func (fs *firsts) ask(f *flight) {
	if !fs.send(f) {
		go fs.s.fly(f)
	}
}

// send asks the preferred upstream, and reports whether its answer is waited for.
func (fs *firsts) send(f *flight) bool {
	pool := fs.s.state.Load().pool
	if len(pool.ups) == 0 {
		return false
	}
	up := pool.ups[pool.preferred.Load()]
	id, err := fs.s.ids.next()
	if err != nil || up.salen == 0 {
		return false
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !fs.running || pool.ctx.Err() != nil {
		return false
	}
	s := fs.take(up.v6)
	if s == nil {
		return false
	}
	s.f, s.pool, s.up, s.tick, s.wrong = f, pool, up, fs.tick, 0
	fs.busy++
	if errno := s.send(id); errno != 0 {
		fs.drop(s)
		f.begun = &outcome{up: up, err: fmt.Errorf("ask %v: %w", up.addr, errno)}
		return false
	}
	if !fs.armed {
		fs.arm()
	}
	return true
}

// take returns an idle socket, or a new one; nil when there is none to be had.
func (fs *firsts) take(v6 bool) *askSocket {
	idle := fs.idleOf(v6)
	if n := len(*idle); n > 0 {
		s := (*idle)[n-1]
		*idle = (*idle)[:n-1]
		return s
	}
	s, err := newAskSocket(v6)
	if err != nil {
		return nil
	}
	if s.place = slices.Index(fs.socks, nil); s.place < 0 {
		s.place = len(fs.socks)
		fs.socks = append(fs.socks, nil)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(s.place)}
	if unix.EpollCtl(fs.ep, unix.EPOLL_CTL_ADD, s.fd, &event) != nil {
		_ = unix.Close(s.fd)
		return nil
	}
	fs.socks[s.place] = s
	return s
}

func (fs *firsts) idleOf(v6 bool) *[]*askSocket {
	if v6 {
		return &fs.idle[1]
	}
	return &fs.idle[0]
}

// drop closes a busy socket: what is wrong with it may still be to come.
func (fs *firsts) drop(s *askSocket) {
	fs.busy--
	s.f = nil
	fs.close(s)
}

func (fs *firsts) close(s *askSocket) {
	fs.socks[s.place] = nil
	_ = unix.Close(s.fd)
}

// rest makes a busy socket idle.
func (fs *firsts) rest(s *askSocket) {
	idle := fs.idleOf(s.v6)
	if len(*idle) >= maxIdle || s.unconnect() != 0 {
		fs.drop(s)
		return
	}
	fs.busy--
	s.f = nil
	*idle = append(*idle, s)
}

// receive takes the answer at the socket of a place.
func (fs *firsts) receive(place int) {
	f, pool, o := fs.read(place)
	switch {
	case f == nil:
		return
	case o.err != nil || o.a.rcode() != rcodeOK && o.a.rcode() != rcodeNXDomain:
		begun := o // o itself stays on the stack
		f.begun = &begun
		go fs.s.fly(f)
		return
	}
	first := int(pool.preferred.Load())
	fs.s.prefer(pool, first, first, nil)
	fs.s.cache.put(pool, f.key, o.a, fs.s.seconds())
	fs.s.flights.land(f)
	for i := range f.waiters {
		w := &f.waiters[i]
		if w.reply != nil {
			w.reply <- o.a.render(nil, &w.asker, 0) // has room for one
			continue
		}
		fs.s.loop.answer(o.a, w)
	}
	fs.s.flights.release(f)
}

// read returns what the question at a place came to, and its flight; nil when
// it is still waited for, or not any more.
func (fs *firsts) read(place int) (*flight, *pool, outcome) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if place >= len(fs.socks) || fs.socks[place] == nil || fs.socks[place].f == nil {
		return nil, nil, outcome{}
	}
	s := fs.socks[place]
	f := s.f
	for {
		n, errno := s.receive(&fs.buf)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return nil, nil, outcome{}
		default:
			fs.drop(s)
			return f, s.pool, outcome{up: s.up, err: os.NewSyscallError("receive", errno)}
		}
		o := judge(fs.buf[:n], s.msg[:s.asked], f.do)
		o.up = s.up
		switch {
		case o.err == nil:
			fs.rest(s)
			return f, s.pool, o
		case errors.Is(o.err, errNotOurs):
			if s.wrong++; s.wrong < maxWrong {
				continue
			}
			o.err = errUseTCP
		}
		fs.drop(s)
		return f, s.pool, o
	}
}

// arm lets time tick once more.
func (fs *firsts) arm() {
	fs.armed = true
	d := max(fs.s.timeout/timeoutTicks, time.Millisecond)
	if fs.timer == nil {
		fs.timer = time.AfterFunc(d, fs.ticked)
	} else {
		fs.timer.Reset(d)
	}
}

// ticked ends the waits that last too long, and after the last one closes most
// of the idle sockets.
func (fs *firsts) ticked() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.tick++
	fs.end(os.ErrDeadlineExceeded, func(s *askSocket) bool { return fs.tick-s.tick > timeoutTicks })
	if fs.busy > 0 {
		fs.arm()
		return
	}
	fs.armed = false
	for i, idle := range fs.idle {
		for len(idle) > fewIdle {
			fs.close(idle[len(idle)-1])
			idle = idle[:len(idle)-1]
		}
		fs.idle[i] = idle
	}
}

// abandon ends the waits for the upstreams of p, which are not asked any more.
func (fs *firsts) abandon(p *pool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.end(nil, func(s *askSocket) bool { return s.pool == p })
}

// end lets the flights of the sockets that are over go on in fly, with err as
// what the first upstream came to, or nil for nothing.
func (fs *firsts) end(err error, over func(*askSocket) bool) {
	for _, s := range fs.socks {
		if s == nil || s.f == nil || !over(s) {
			continue
		}
		f := s.f
		if err != nil {
			f.begun = &outcome{up: s.up, err: err}
		}
		fs.drop(s)
		go fs.s.fly(f)
	}
}
