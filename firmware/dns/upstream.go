package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxAttempts    = 4  // exchanges with upstreams a question
	maxUpstreamTCP = 16 // at the same time: each may need 64 KB
	// maxWrong answers on one socket look like somebody guessing ids: the
	// question is then asked over TCP, which cannot be guessed at.
	maxWrong = 8
)

// pool is the list of upstreams, and which of them is working.
type pool struct {
	ups       []*upstream
	preferred atomic.Int32
	failing   atomic.Bool // the last exchange got nothing from anybody
	ctx       context.Context
	cancel    context.CancelFunc
}

type upstream struct {
	addr   netip.AddrPort
	noEDNS atomic.Bool
	// The same address for the kernel. salen is 0 for one with a zone, which
	// may get another index any time.
	v6    bool
	sa    unix.RawSockaddrInet6
	salen uint32
}

func newPool(addrs []netip.AddrPort) *pool {
	p := &pool{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, a := range addrs {
		up := &upstream{addr: a}
		if plain := a.Addr().Unmap(); plain.Zone() == "" {
			up.v6 = plain.Is6()
			up.sa, up.salen = sockaddr(netip.AddrPortFrom(plain, a.Port()), up.v6)
		}
		p.ups = append(p.ups, up)
	}
	return p
}

func (p *pool) addrs() []netip.AddrPort {
	var as []netip.AddrPort
	for _, u := range p.ups {
		as = append(as, u.addr)
	}
	return as
}

// exchange asks upstreams until one has an answer; the result is never nil.
// A server that says SERVFAIL is believed when no other one knows better.
func (s *Server) exchange(p *pool, f *flight) *answer {
	n := len(p.ups)
	if n == 0 {
		s.failures.Add(1)
		return failure(f.question)
	}
	first := int(p.preferred.Load())
	var lame [maxUpstreams]bool // gave an answer that helps nobody
	var firstErr error
	for try := range min(maxAttempts, 2*n) {
		if p.ctx.Err() != nil {
			break
		}
		i := (first + try) % n
		if lame[i] {
			continue
		}
		up := p.ups[i]
		a, err := s.askUpstream(p.ctx, up, f)
		if err == nil {
			switch a.rcode() {
			case rcodeOK, rcodeNXDomain:
				s.prefer(p, first, i, firstErr)
				return a
			case rcodeServFail: // often the question's fault, so not a reason to leave the server
			default:
				err = fmt.Errorf("answered with code %d", a.rcode())
			}
			lame[i] = true
		}
		if i == first && firstErr == nil {
			firstErr = err
		}
	}
	if p.ctx.Err() == nil {
		s.failures.Add(1)
		if n > maxAttempts { // the others were not reached: begin with them next time
			p.preferred.CompareAndSwap(int32(first), int32((first+maxAttempts)%n))
		}
		if firstErr != nil && !p.failing.Swap(true) {
			s.log.Warn("dns: no upstream answers", "upstream", p.ups[first].addr, "err", firstErr)
		}
	}
	return failure(f.question)
}

// prefer notes that upstream i answered; err is why the first one did not.
func (s *Server) prefer(p *pool, first, i int, err error) {
	if p.failing.Load() && p.failing.Swap(false) {
		s.log.Info("dns: an upstream answers again", "upstream", p.ups[i].addr)
	}
	if i != first && err != nil && p.preferred.CompareAndSwap(int32(first), int32(i)) {
		s.log.Warn("dns: changing to another upstream", "from", p.ups[first].addr, "to", p.ups[i].addr, "err", err)
	}
}

// askUpstream does one exchange, and another one without EDNS when that seems
// to be what the server could not read (RFC 6891 section 7).
func (s *Server) askUpstream(ctx context.Context, up *upstream, f *flight) (*answer, error) {
	edns := !up.noEDNS.Load()
	a, err := s.askOnce(ctx, up, f, edns)
	if err != nil || !edns || a.rcode() != rcodeFormErr && a.rcode() != rcodeNotImp {
		return a, err
	}
	plain, err := s.askOnce(ctx, up, f, false)
	if err == nil && plain.rcode() != a.rcode() {
		up.noEDNS.Store(true)
	}
	return plain, err
}

// askOnce asks over UDP, and over TCP when the answer does not fit or somebody
// seems to be guessing.
func (s *Server) askOnce(ctx context.Context, up *upstream, f *flight, edns bool) (*answer, error) {
	msg, err := s.upstreamQuery(f, edns)
	if err != nil {
		return nil, err
	}
	var a *answer
	if o := f.begun; o != nil && o.up == up {
		f.begun, a, err = nil, o.a, o.err
	} else {
		a, err = s.askUDP(ctx, up, msg[:len(f.question)], msg, f.do)
	}
	if errors.Is(err, errUseTCP) {
		a, err = s.askTCP(ctx, up, msg, f)
	}
	return a, err
}

// upstreamQuery makes the message: a fresh id, the question, EDNS.
func (s *Server) upstreamQuery(f *flight, edns bool) ([]byte, error) {
	id, err := s.ids.next()
	if err != nil {
		return nil, fmt.Errorf("no random id: %w", err)
	}
	msg := make([]byte, len(f.question), len(f.question)+optLen)
	copy(msg, f.question)
	put16(msg, id)
	if edns {
		msg = (&asker{do: f.do}).appendOPT(msg)
	}
	return msg, nil
}

var errUseTCP = errors.New("the answer does not fit UDP")

// maxUDP is how long a message over UDP may be; what fills it may be cut.
const maxUDP = 4096

var udpBuffers = sync.Pool{New: func() any { return new([maxUDP]byte) }}

// outcome is what asking an upstream over UDP came to.
type outcome struct {
	up  *upstream
	a   *answer
	err error
}

// askUDP sends msg, whose header and question are asked, and waits for the
// answer. An error that is errUseTCP says where to get it.
func (s *Server) askUDP(ctx context.Context, up *upstream, asked, msg []byte, do bool) (*answer, error) {
	// Connected: the kernel drops what other sources send, and tells at once
	// when the port is closed. A new socket has a new random port.
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(up.addr))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer s.deadline(ctx, conn)()
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}
	buf := udpBuffers.Get().(*[maxUDP]byte)
	defer udpBuffers.Put(buf)
	for range maxWrong {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, err
		}
		if o := judge(buf[:n], asked, do); !errors.Is(o.err, errNotOurs) {
			return o.a, o.err
		}
	}
	return nil, errUseTCP
}

// judge tells what msg, which came over UDP, is for a question. errNotOurs
// means that the right answer may still come.
func judge(msg, asked []byte, do bool) outcome {
	a, err := parseAnswer(msg, asked, do)
	switch {
	case err == nil && a.msg[2]&flagTC == 0:
		return outcome{a: a}
	case errors.Is(err, errNotOurs):
	case err == nil || len(msg) == maxUDP:
		err = errUseTCP
	case checkHeader(msg, asked) == nil && msg[2]&flagTC != 0:
		err = errUseTCP // cut in the middle of a record
	}
	return outcome{err: err}
}

func (s *Server) askTCP(ctx context.Context, up *upstream, msg []byte, f *flight) (*answer, error) {
	select {
	case s.tcpSlots <- struct{}{}:
		defer func() { <-s.tcpSlots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d := net.Dialer{Timeout: s.timeout}
	conn, err := d.DialContext(ctx, "tcp", up.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer s.deadline(ctx, conn)()
	if _, err := conn.Write(append(append16(nil, uint16(len(msg))), msg...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, be16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	return parseAnswer(buf, msg[:len(f.question)], f.do)
}

// deadline limits conn to the time-out, or to the end of ctx. The function it
// returns undoes the latter.
func (s *Server) deadline(ctx context.Context, conn net.Conn) func() bool {
	_ = conn.SetDeadline(time.Now().Add(s.timeout))
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}
