// Package watch tells that the kernel's network state may have changed. A tick
// carries no data: who gets it reads the state again in full. What this process
// itself changes of the firewall makes no tick.
package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The multicast groups that are listened to, from linux/rtnetlink.h and
// linux/netfilter/nfnetlink.h.
const (
	groupLink     = 1 // RTNLGRP_LINK
	groupIPv4Addr = 5 // RTNLGRP_IPV4_IFADDR
	groupIPv4Rt   = 7 // RTNLGRP_IPV4_ROUTE
	groupNFTables = 7 // NFNLGRP_NFTABLES
)

// Watcher listens in the network namespace of the thread that made it.
type Watcher struct {
	conns []*netlink.Conn
	c     chan struct{}
}

// New subscribes; from now on no change goes without a tick.
func New() (*Watcher, error) {
	w := &Watcher{c: make(chan struct{}, 1)}
	for _, sub := range []struct {
		family int
		groups []uint32
	}{
		{unix.NETLINK_ROUTE, []uint32{groupLink, groupIPv4Addr, groupIPv4Rt}},
		{unix.NETLINK_NETFILTER, []uint32{groupNFTables}},
	} {
		c, err := netlink.Dial(sub.family, nil)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("watch the kernel: netlink family %d: %w", sub.family, err)
		}
		w.conns = append(w.conns, c)
		if sub.family == unix.NETLINK_NETFILTER {
			if err := c.SetBPF(generations()); err != nil {
				w.close()
				return nil, fmt.Errorf("watch the kernel: filter: %w", err)
			}
		}
		for _, g := range sub.groups {
			if err := c.JoinGroup(g); err != nil {
				w.close()
				return nil, fmt.Errorf("watch the kernel: netlink family %d, group %d: %w", sub.family, g, err)
			}
		}
	}
	return w, nil
}

// generations is a filter that passes NFT_MSG_NEWGEN alone: one message for
// each transaction, where there may be thousands for what is in it.
func generations() []bpf.RawInstruction {
	// The type of a netlink message is in host order at offset 4, which the
	// filter loads as big endian.
	typ := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN))
	return []bpf.RawInstruction{
		{Op: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(typ)},
		{Op: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
		{Op: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// ours tells whether all of these messages are about transactions of this
// process, which knows of them.
func ours(msgs []netlink.Message) bool {
	pid := os.Getpid()
	for _, m := range msgs {
		if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN || len(m.Data) < 4 {
			return false
		}
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return false
		}
		d.ByteOrder = binary.BigEndian
		mine := false
		for d.Next() {
			// The attribute has the thread.
			mine = mine || d.Type() == unix.NFTA_GEN_PROC_PID && unix.Tgkill(pid, int(d.Uint32()), 0) == nil
		}
		if d.Err() != nil || !mine {
			return false
		}
	}
	return len(msgs) > 0
}

// C gets a tick after one or many changes; unread ticks become one.
func (w *Watcher) C() <-chan struct{} { return w.c }

// Run delivers ticks until ctx ends, which is no error. It closes the sockets.
func (w *Watcher) Run(ctx context.Context) error {
	errs := make(chan error, len(w.conns))
	for _, c := range w.conns {
		go func() { errs <- w.receive(c) }()
	}
	var err error
	left := len(w.conns)
	select {
	case <-ctx.Done():
	case err = <-errs:
		left--
	}
	w.close()
	for range left {
		<-errs
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the kernel: %w", err)
}

func (w *Watcher) String() string { return "kernel watch" }

func (w *Watcher) receive(c *netlink.Conn) error {
	for {
		// An overflow means that events were lost: a tick like any other.
		msgs, err := c.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		if err == nil && ours(msgs) {
			continue
		}
		select {
		case w.c <- struct{}{}:
		default:
		}
	}
}

func (w *Watcher) close() {
	for _, c := range w.conns {
		c.Close()
	}
}
