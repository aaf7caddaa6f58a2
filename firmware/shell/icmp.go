package shell

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	pingCount   = 5
	maxPings    = 1000
	pingEvery   = time.Second
	probeWait   = time.Second
	maxHops     = 30
	hopProbes   = 3
	silentHops  = 5 // traceroute gives up after so many hops that say nothing
	pingPayload = 56
)

func (s *Shell) resolve(ctx context.Context, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if !a.Is4() {
			return a, fmt.Errorf("%s: only IPv4 addresses work", host)
		}
		return a, nil
	}
	if s.o.Resolve == nil {
		return netip.Addr{}, fmt.Errorf("%s: names can't be looked up; give an address", host)
	}
	a, err := s.o.Resolve(ctx, host)
	if err != nil {
		return a, fmt.Errorf("%s: %w", host, err)
	}
	return a, nil
}

// pinger sends ICMP echo requests (RFC 792) on a raw socket.
type pinger struct {
	c   *net.IPConn
	id  uint16
	seq uint16
	dst netip.Addr
}

// icmpReply is the answer to one echo request.
type icmpReply struct {
	from netip.Addr
	kind byte // 0 echo reply, 3 unreachable, 11 time exceeded
	code byte
	rtt  time.Duration
}

func newPinger(dst netip.Addr, id uint16) (*pinger, error) {
	c, err := net.ListenIP("ip4:icmp", nil)
	if err != nil {
		return nil, fmt.Errorf("no socket for ICMP: %w", err)
	}
	return &pinger{c: c, id: id, dst: dst}, nil
}

// probe sends one echo request with this TTL (0: the default) and waits for
// its answer; no answer in time is os.ErrDeadlineExceeded.
func (p *pinger) probe(ctx context.Context, ttl int, wait time.Duration) (icmpReply, error) {
	if ttl > 0 {
		if err := p.setTTL(ttl); err != nil {
			return icmpReply{}, err
		}
	}
	p.seq++
	start := time.Now()
	if _, err := p.c.WriteToIP(p.request(), &net.IPAddr{IP: p.dst.AsSlice()}); err != nil {
		return icmpReply{}, err
	}
	p.c.SetReadDeadline(start.Add(wait))
	stop := context.AfterFunc(ctx, func() { p.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, 1500)
	for {
		n, from, err := p.c.ReadFromIP(b)
		if ctx.Err() != nil {
			return icmpReply{}, ctx.Err()
		}
		if err != nil {
			return icmpReply{}, err
		}
		if kind, code, ok := p.mine(b[:n]); ok {
			a, _ := netip.AddrFromSlice(from.IP)
			return icmpReply{from: a.Unmap(), kind: kind, code: code, rtt: time.Since(start)}, nil
		}
	}
}

func (p *pinger) setTTL(ttl int) error {
	rc, err := p.c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) { serr = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, ttl) })
	return errors.Join(err, serr)
}

func (p *pinger) request() []byte {
	b := make([]byte, 8+pingPayload)
	b[0] = 8
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], p.seq)
	for i := range b[8:] {
		b[8+i] = byte(i)
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// mine tells whether an ICMP message answers the latest request: an echo
// reply, or an error that quotes it.
func (p *pinger) mine(b []byte) (kind, code byte, ok bool) {
	if len(b) < 8 {
		return 0, 0, false
	}
	kind, code = b[0], b[1]
	switch kind {
	case 0:
	case 3, 11: // the quoted packet: IP header, then our ICMP header
		q := b[8:]
		if len(q) < 20 {
			return 0, 0, false
		}
		hl := int(q[0]&15) * 4
		if hl < 20 || len(q) < hl+8 || q[9] != 1 || q[hl] != 8 {
			return 0, 0, false
		}
		b = q[hl:]
	default:
		return 0, 0, false
	}
	return kind, code, binary.BigEndian.Uint16(b[4:]) == p.id && binary.BigEndian.Uint16(b[6:]) == p.seq
}

// checksum is the Internet checksum, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func (s *Shell) pinger(ctx context.Context, host string) (*pinger, error) {
	dst, err := s.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	return newPinger(dst, uint16(s.o.Now().UnixNano()>>10))
}

func runPing(ctx context.Context, s *Shell, a args) error {
	count := pingCount
	if len(a.words) == 2 {
		n, err := strconv.Atoi(a.words[1])
		if err != nil || n < 1 || n > maxPings {
			return fmt.Errorf("%q is not a count (allowed: 1 to %d)", a.words[1], maxPings)
		}
		count = n
	} else if len(a.words) != 1 {
		return a.usageError()
	}
	p, err := s.pinger(ctx, a.words[0])
	if err != nil {
		return err
	}
	defer p.c.Close()
	fmt.Fprintf(s.c, "Ping %s, %d times. Ctrl-C ends it.\n", p.dst, count)
	sent, got := 0, 0
	for sent < count && ctx.Err() == nil {
		next := time.NewTimer(pingEvery)
		r, err := p.probe(ctx, 0, probeWait)
		if ctx.Err() != nil {
			next.Stop()
			break
		}
		sent++
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			fmt.Fprintf(s.c, "%d: no answer within %s\n", sent, probeWait)
		case err != nil:
			fmt.Fprintf(s.c, "%d: %v\n", sent, err)
		case r.kind != 0:
			fmt.Fprintf(s.c, "%d: %s says: %s\n", sent, r.from, icmpText(r))
		default:
			got++
			fmt.Fprintf(s.c, "%d: answer from %s after %s\n", sent, r.from, millis(r.rtt))
		}
		if sent == count {
			next.Stop()
			break
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
		}
	}
	fmt.Fprintf(s.c, "%d sent, %d answered.\n", sent, got)
	if got == 0 && ctx.Err() == nil {
		return say("%s does not answer.", p.dst)
	}
	return nil
}

func icmpText(r icmpReply) string {
	if r.kind == 11 {
		return "too many hops"
	}
	switch r.code {
	case 0:
		return "network unreachable"
	case 1:
		return "host unreachable"
	case 9, 10, 13:
		return "administratively prohibited"
	}
	return fmt.Sprintf("unreachable (code %d)", r.code)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func runTraceroute(ctx context.Context, s *Shell, a args) error {
	if len(a.words) != 1 {
		return a.usageError()
	}
	p, err := s.pinger(ctx, a.words[0])
	if err != nil {
		return err
	}
	defer p.c.Close()
	fmt.Fprintf(s.c, "The way to %s, at most %d hops. Ctrl-C ends it.\n", p.dst, maxHops)
	silent := 0
	for ttl := 1; ttl <= maxHops && silent < silentHops; ttl++ {
		line, last, heard, err := p.hop(ctx, ttl)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.c, "%2d  %s\n", ttl, line)
		if last {
			return nil
		}
		if silent++; heard {
			silent = 0
		}
	}
	return say("%s was not reached.", p.dst)
}

// hop probes one distance; last says that the way ends here.
func (p *pinger) hop(ctx context.Context, ttl int) (line string, last, heard bool, err error) {
	var from netip.Addr
	for range hopProbes {
		r, err := p.probe(ctx, ttl, probeWait)
		switch {
		case ctx.Err() != nil:
			return "", false, false, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			line += " *"
			continue
		case err != nil:
			return "", false, false, err
		}
		if r.from != from {
			line += " " + r.from.String()
			from = r.from
		}
		line += " " + millis(r.rtt)
		if r.kind == 3 {
			line += " (" + icmpText(r) + ")"
		}
		heard = true
		last = last || r.kind != 11
	}
	return line[1:], last, heard, nil
}
