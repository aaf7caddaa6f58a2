package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	maxQuery       = 4096 // bytes; the largest question has 271 without options
	maxLocal       = 1024 // a response of the server's own making is smaller
	maxConns       = 24   // TCP clients at the same time
	maxClientConns = 8
	tcpIdle        = 10 * time.Second // RFC 7766 section 6.2.3: a few seconds
)

// Listeners are the sockets to serve. Each UDP one must have a LAN address of
// its own, not the wildcard: answers leave from where questions arrive.
type Listeners struct {
	UDP []*net.UDPConn
	TCP []net.Listener
}

// Close closes all of them.
func (l Listeners) Close() {
	for _, c := range l.UDP {
		_ = c.Close()
	}
	for _, c := range l.TCP {
		_ = c.Close()
	}
}

// Run serves until ctx ends, then returns nil; or until a listener fails. It
// closes the listeners. Run may be called again with new ones once it returned.
func (s *Server) Run(ctx context.Context, l Listeners) error {
	defer l.Close()
	if len(l.UDP)+len(l.TCP) == 0 {
		return errors.New("dns: nothing to listen on")
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopClosing := context.AfterFunc(inner, l.Close)
	defer stopClosing()
	var wg sync.WaitGroup
	if err := s.loop.start(); err != nil {
		return err
	}
	defer s.loop.stop()
	for _, c := range l.UDP {
		wg.Go(func() { cancel(s.serveUDP(inner, c)) })
	}
	t := &tcpServer{s: s, ctx: inner, byClient: make(map[netip.Addr]int)}
	for _, ln := range l.TCP {
		wg.Go(func() { cancel(t.serve(ln)) })
	}
	wg.Wait()
	s.finishFlights(func() {
		t.wg.Wait()
		s.flights.wg.Wait()
	})
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(inner)
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// tcpServer bounds the connections, in all and for each client.
type tcpServer struct {
	s   *Server
	ctx context.Context
	wg  sync.WaitGroup

	mu       sync.Mutex
	conns    int
	byClient map[netip.Addr]int
}

func (t *tcpServer) serve(ln net.Listener) error {
	for fails := 0; ; {
		c, err := ln.Accept()
		if err != nil {
			if fails++; t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || fails > 100 {
				return fmt.Errorf("dns: accept on %v: %w", ln.Addr(), err)
			}
			continue // the client is already gone
		}
		fails = 0
		client := addrOf(c.RemoteAddr())
		if !t.enter(client) {
			_ = c.Close()
			continue
		}
		t.wg.Go(func() {
			defer t.leave(client)
			defer c.Close()
			defer context.AfterFunc(t.ctx, func() { _ = c.Close() })()
			t.serveConn(c, client)
		})
	}
}

func (t *tcpServer) enter(client netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns >= maxConns || t.byClient[client] >= maxClientConns {
		return false
	}
	t.conns++
	t.byClient[client]++
	return true
}

func (t *tcpServer) leave(client netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns--
	if t.byClient[client]--; t.byClient[client] == 0 {
		delete(t.byClient, client)
	}
}

// serveConn answers one question after the other until the client ends, idles,
// or sends what is no query.
func (t *tcpServer) serveConn(c net.Conn, client netip.Addr) {
	local := addrOf(c.LocalAddr())
	in, out := make([]byte, 2, 2+512), make([]byte, 2, 2+maxCachedMsg+optLen)
	var q query
	for {
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := io.ReadFull(c, in[:2]); err != nil {
			return
		}
		n := int(be16(in[:2]))
		if n < headerLen || n > maxQuery {
			return
		}
		if cap(in) < 2+n {
			in = make([]byte, 2+n)
		}
		pkt := in[2 : 2+n]
		if _, err := io.ReadFull(c, pkt); err != nil {
			return
		}
		resp := t.s.answerTCP(&q, pkt, out[2:2], netip.AddrPortFrom(client, 0), local)
		if resp == nil {
			return
		}
		out = append(out[:2], resp...)
		put16(out, uint16(len(resp)))
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// answerTCP is answer, waiting for an upstream where one is needed.
func (s *Server) answerTCP(q *query, pkt, dst []byte, from netip.AddrPort, local netip.Addr) []byte {
	st := s.state.Load()
	resp, ask := s.answer(st, q, pkt, dst, from.Addr(), local, false, s.seconds())
	if !ask {
		return resp
	}
	reply := make(chan []byte, 1)
	if !s.ask(q, &waiter{to: from, reply: reply}) {
		return q.fail(dst[:0], rcodeServFail)
	}
	return <-reply // an exchange always ends: its attempts are bounded
}
