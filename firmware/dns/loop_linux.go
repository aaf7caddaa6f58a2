package dns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	politeTurns = 8  // turns without a pause: others may run
	busyTurns   = 16 // turns without a pause: a flood
)

// loop is the one goroutine that serves all UDP sockets, those towards upstreams
// too: what a question takes until its answer is on its way wakes nobody else.
type loop struct {
	s    *Server
	file *os.File // the epoll descriptor
	done chan struct{}

	mu        sync.Mutex
	listeners []*listener // by their place, which is what epoll tells, inverted

	// Of the goroutine.
	events  [batchSize]unix.EpollEvent
	pending []*listener // may have questions
	dirty   []*listener // have answers to send
}

// start makes the loop ready for listeners and questions.
func (lp *loop) start() error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("dns: epoll: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil {
		return fmt.Errorf("dns: epoll: %w", errors.Join(err, unix.Close(ep)))
	}
	// An epoll can be waited for as a socket can, by Go's own.
	lp.file = os.NewFile(uintptr(ep), "epoll")
	rc, err := lp.file.SyscallConn()
	if err == nil {
		err = lp.file.SetReadDeadline(time.Time{}) // refused by what can't be waited for
	}
	if err != nil {
		return fmt.Errorf("dns: epoll: %w", errors.Join(err, lp.file.Close()))
	}
	lp.s.first.open(ep)
	done := make(chan struct{})
	lp.done = done
	go func() {
		defer close(done)
		// One Read for all of it: in between it waits as any other would, and
		// what comes after turn looked wakes it at once.
		_ = rc.Read(lp.turn) // until the file is closed
	}()
	return nil
}

// stop ends it, when no listener and no flight is left.
func (lp *loop) stop() {
	lp.s.first.shut()
	_ = lp.file.Close()
	<-lp.done
	lp.listeners, lp.pending, lp.dirty = nil, nil, nil
}

// add lets the loop serve l. That Go waits for the socket too costs it nothing:
// both waits end at once.
func (lp *loop) add(l *listener) error {
	lp.mu.Lock()
	place := len(lp.listeners)
	lp.listeners = append(lp.listeners, l)
	lp.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(^place)}
	return control(lp.file, func(ep int) error {
		return control(l.conn, func(fd int) error { return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &event) })
	})
}

// control runs f with the descriptor of c, which stays open that long.
func control(c syscall.Conn, f func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// turn serves all sockets that have something. It always wants to wait for more.
func (lp *loop) turn(ep uintptr) bool {
	for turn := 1; ; turn++ {
		call := unix.RawSyscall6
		if turn%busyTurns == 0 {
			// The other calls here are none that Go's scheduler knows of: they never
			// wait, and telling it each time costs as much as the lookup of an answer.
			// But it is what wakes the scheduler's monitor, which lets others run
			// beside somebody who never stops.
			call = unix.Syscall6
		}
		n, _, errno := call(unix.SYS_EPOLL_PWAIT, ep, uintptr(unsafe.Pointer(&lp.events)), uintptr(len(lp.events)), 0, 0, 0)
		if errno != 0 {
			n = 0
		}
		for i := range int(n) {
			if place := int(lp.events[i].Fd); place >= 0 {
				lp.s.first.receive(place)
			} else {
				lp.wake(^place)
			}
		}
		for _, l := range lp.dirty {
			l.flush()
		}
		lp.dirty = lp.dirty[:0]
		lp.pending = slices.DeleteFunc(lp.pending, (*listener).drained)
		if int(n) < len(lp.events) && len(lp.pending) == 0 {
			return false // there was no more
		}
		if turn%politeTurns == 0 {
			runtime.Gosched()
		}
	}
}

// wake notes that the listener at a place has questions.
func (lp *loop) wake(place int) {
	lp.mu.Lock()
	l := lp.listeners[place]
	lp.mu.Unlock()
	if !slices.Contains(lp.pending, l) {
		lp.pending = append(lp.pending, l)
	}
}

// answer sends a to w, with others.
func (lp *loop) answer(a *answer, w *waiter) {
	l := w.l
	if l.out.n == batchSize {
		l.flush()
	}
	l.out.add(a.render(l.out.slot(), &w.asker, 0), &w.sa, w.salen)
	if !slices.Contains(lp.dirty, l) {
		lp.dirty = append(lp.dirty, l)
	}
}
