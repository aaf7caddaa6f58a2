// Package watch tells that the kernel's network state may have changed. A tick
// carries no data: who gets it reads the state again in full.
package watch

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
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
		for _, g := range sub.groups {
			if err := c.JoinGroup(g); err != nil {
				w.close()
				return nil, fmt.Errorf("watch the kernel: netlink family %d, group %d: %w", sub.family, g, err)
			}
		}
	}
	return w, nil
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
		if _, err := c.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
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
