package dnsload

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
)

// address is what every name has.
var address = [4]byte{192, 0, 2, 1}

// answerRecord is an A record of the question's name, good for an hour.
var answerRecord = append([]byte{0xc0, headerLen, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4}, address[:]...)

// upstream is a name server that knows every name.
type upstream struct {
	conn  *net.UDPConn
	asked atomic.Int64 // queries so far
	done  chan struct{}
}

func startUpstream(at netip.AddrPort) (*upstream, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	u := &upstream{conn: conn, done: make(chan struct{})}
	go u.serve()
	return u, nil
}

func (u *upstream) close() {
	_ = u.conn.Close()
	<-u.done
}

func (u *upstream) serve() {
	defer close(u.done)
	buf := make([]byte, maxMessage+len(answerRecord))
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf[:maxMessage])
		if err != nil {
			return
		}
		if resp := answer(buf[:n]); resp != nil {
			u.asked.Add(1)
			_, _ = u.conn.WriteToUDPAddrPort(resp, from)
		}
	}
}

// answer makes the answer to query of it, nil when it is none.
func answer(query []byte) []byte {
	end := questionEnd(query)
	if end == 0 {
		return nil
	}
	query[2], query[3] = 0x81, 0x80 // a response, RD, RA
	clear(query[6:headerLen])       // no additional section: OPT is not echoed
	query[7] = 1
	return append(query[:end], answerRecord...)
}

// questionEnd is where the question of a query ends, 0 when it has none.
func questionEnd(msg []byte) int {
	at := headerLen
	for at < len(msg) && msg[at] != 0 {
		at += 1 + int(msg[at])
	}
	if at+5 > len(msg) {
		return 0
	}
	return at + 5
}
