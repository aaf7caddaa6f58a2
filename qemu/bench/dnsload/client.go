package dnsload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	devices     = 4  // each with an address and a socket of its own
	outstanding = 16 // queries that a device waits for at the same time
	patience    = 2 * time.Second
	headerLen   = 12
	maxMessage  = 512 // bytes, RFC 1035 section 4.2.1
)

// names are what is asked for: n different ones.
type names struct {
	prefix string
	n      int
}

// appendQuery appends a query for A records of name i, of the length that names
// have in practice.
func (ns names) appendQuery(b []byte, id uint16, i int) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // RD, one question
	at := len(b)
	b = append(b, 0)
	b = append(b, ns.prefix...)
	b = append(b, '-')
	b = strconv.AppendInt(b, int64(i), 10)
	b[at] = byte(len(b) - at - 1)
	return append(b, "\x07service\x07example\x00\x00\x01\x00\x01"...)
}

// client is the devices of a LAN, which ask as fast as they get answers.
type client struct{ conns []*net.UDPConn }

func newClient(server netip.AddrPort) (*client, error) {
	c := &client{}
	for i := range devices {
		own := server.Addr().As4()
		own[3] = byte(100 + i)
		conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(own), 0)), net.UDPAddrFromAddrPort(server))
		if err != nil {
			c.close()
			return nil, fmt.Errorf("client: %w", err)
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *client) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// ask asks total times for the names ns, one after the other and again from the
// first, and checks each answer.
func (c *client) ask(ctx context.Context, ns names, total int) error {
	stop := context.AfterFunc(ctx, func() {
		for _, conn := range c.conns {
			_ = conn.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	var next atomic.Int64
	take := func() (int, bool) {
		i := int(next.Add(1)) - 1
		return i % ns.n, i < total
	}
	errs := make([]error, len(c.conns))
	var wg sync.WaitGroup
	for i, conn := range c.conns {
		wg.Go(func() { errs[i] = (&device{conn: conn, names: ns, take: take}).run() })
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// device is one of the LAN's.
type device struct {
	conn  *net.UDPConn
	names names
	take  func() (int, bool)
	// waiting has the queries that are out; a query's id is its place in it.
	waiting [outstanding][]byte
	out     int
}

func (d *device) run() error {
	for i := range d.waiting {
		if err := d.send(i); err != nil {
			return err
		}
	}
	buf := make([]byte, maxMessage)
	for d.out > 0 {
		_ = d.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := d.conn.Read(buf)
		if err != nil {
			return fmt.Errorf("%d queries have no answer: %w", d.out, err)
		}
		place, err := d.check(buf[:n])
		if err != nil {
			return err
		}
		d.out--
		if err := d.send(place); err != nil {
			return err
		}
	}
	return nil
}

// send sends the next query, if there is one, in the place of an answered one.
func (d *device) send(place int) error {
	d.waiting[place] = d.waiting[place][:0]
	i, ok := d.take()
	if !ok {
		return nil
	}
	d.waiting[place] = d.names.appendQuery(d.waiting[place], uint16(place), i)
	d.out++
	_, err := d.conn.Write(d.waiting[place])
	return err
}

// check checks that msg answers a query that is out with one address, and tells
// which.
func (d *device) check(msg []byte) (place int, err error) {
	if len(msg) < headerLen {
		return 0, fmt.Errorf("an answer of %d bytes", len(msg))
	}
	place = int(binary.BigEndian.Uint16(msg))
	if place >= len(d.waiting) || len(d.waiting[place]) == 0 {
		return 0, fmt.Errorf("an answer to nothing: % x", msg)
	}
	asked := d.waiting[place]
	if msg[2]&0x80 == 0 || msg[3]&15 != 0 || binary.BigEndian.Uint16(msg[6:]) != 1 ||
		!bytes.HasPrefix(msg[headerLen:], asked[headerLen:]) || !bytes.HasSuffix(msg, address[:]) {
		return 0, fmt.Errorf("not the answer to % x: % x", asked, msg)
	}
	return place, nil
}
