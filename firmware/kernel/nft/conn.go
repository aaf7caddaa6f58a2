// Package nft writes the firewall into the kernel and reads it back. It owns
// `table inet culvert` and `table ip culvert` and touches no other. Expressions are those of
// google/nftables; batches and dumps are made here, on mdlayher/netlink, so
// that every error names its object, big sets are cut into messages whose
// lengths fit, and a rule that somebody else wrote never stops a dump.
package nft

import (
	"errors"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Options of a Conn.
type Options struct {
	// NetNS is a file descriptor of the network namespace to work in; 0 is
	// that of the calling thread.
	NetNS int
}

// Conn works in the network namespace of its first caller, or that of Options.
// It may be used by several goroutines.
type Conn struct {
	opt Options

	mu   sync.Mutex
	nl   *netlink.Conn // for transactions and the generation; nil after an error
	seen knowledge
}

// New makes a Conn.
func New(o Options) *Conn { return &Conn{opt: o} }

// dial opens a socket whose buffers hold the largest batch (10,000 elements
// are 1 MB; the kernel answers EMSGSIZE or ENOBUFS otherwise).
func (c *Conn) dial() (*netlink.Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: c.opt.NetNS})
	if err != nil {
		return nil, fmt.Errorf("nft: open netlink: %w", err)
	}
	if err := errors.Join(nl.SetWriteBuffer(8<<20), nl.SetReadBuffer(4<<20)); err != nil {
		nl.Close()
		return nil, fmt.Errorf("nft: socket buffers: %w", err)
	}
	return nl, nil
}

// socket is the one that stays open. c.mu is held.
func (c *Conn) socket() (*netlink.Conn, error) {
	if c.nl != nil {
		return c.nl, nil
	}
	nl, err := c.dial()
	c.nl = nl
	return nl, err
}

// drop closes it: after an error an answer may still be on its way.
func (c *Conn) drop() {
	if c.nl != nil {
		c.nl.Close()
		c.nl = nil
	}
}

// commit sends the batch as one transaction: all of it happens or nothing.
// c.mu is held.
func (c *Conn) commit(b *batch) error {
	if len(b.msgs) == 0 {
		return nil
	}
	nl, err := c.socket()
	if err == nil {
		err = transact(nl, b)
	}
	if err != nil {
		c.drop()
		c.seen.forget()
		return err
	}
	c.seen.own++
	return nil
}

// change is commit for a caller who does not hold c.mu.
func (c *Conn) change(b *batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commit(b)
}

func transact(nl *netlink.Conn, b *batch) error {
	edge := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request}, Data: []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	msgs := make([]netlink.Message, 0, len(b.msgs)+2)
	msgs = append(msgs, edge(unix.NFNL_MSG_BATCH_BEGIN))
	msgs = append(msgs, b.msgs...)
	msgs = append(msgs, edge(unix.NFNL_MSG_BATCH_END))
	if _, err := nl.SendMessages(msgs); err != nil {
		return fmt.Errorf("nft: send %d messages: %w", len(msgs), err)
	}
	// Every message asked for an acknowledgement; they come in order.
	var errs []error
	for _, what := range b.what {
		if _, err := nl.Receive(); err != nil {
			errs = append(errs, fmt.Errorf("nft: %s: %w", what, err))
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
				break // the one answer to the whole batch
			}
		}
	}
	return errors.Join(errs...)
}

// dump asks for all objects of a kind.
func dump(nl *netlink.Conn, typ int, family uint8, attrs buffer) ([]netlink.Message, error) {
	return nl.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(typ), Flags: netlink.Request | netlink.Dump},
		Data:   append(header(family), attrs...),
	})
}

// ProbeFlowtable tells whether the kernel has flowtables: it makes one in a
// table of its own and removes it in the same transaction.
func (c *Conn) ProbeFlowtable() error {
	b := &batch{family: unix.NFPROTO_INET}
	const probe = "culvert_probe"
	for _, typ := range []int{unix.NFT_MSG_NEWTABLE, msgNewFlowtable, unix.NFT_MSG_DELTABLE} {
		h := header(b.family)
		h.str(1, probe)
		if typ == msgNewFlowtable {
			h.str(2, "ft")
			end := h.nest(3)
			h.u32(1, unix.NF_NETDEV_INGRESS)
			h.u32(2, 0)
			end()
		}
		b.add("flowtable probe", typ, create(typ), h)
	}
	return c.change(b)
}
