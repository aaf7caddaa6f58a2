// Package nflog receives the packets that rules with `log group N` send, see
// linux/netfilter/nfnetlink_log.h.
package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Packet is one logged packet.
type Packet struct {
	Prefix string    // of the rule
	Time   time.Time // when the kernel took it; zero when it does not say
	Data   []byte    // from the IP header on, cut at the rule's snaplen
}

// Message types and attributes of nfnetlink_log.h.
const (
	msgPacket = 0 // NFULNL_MSG_PACKET
	msgConfig = 1 // NFULNL_MSG_CONFIG

	cfgCommand = 1 // NFULA_CFG_CMD
	cfgMode    = 2 // NFULA_CFG_MODE
	cfgQueue   = 5 // NFULA_CFG_QTHRESH

	attrTime    = 3  // NFULA_TIMESTAMP: seconds and microseconds, big endian
	attrPayload = 9  // NFULA_PAYLOAD
	attrPrefix  = 10 // NFULA_PREFIX

	bind       = 1 // NFULNL_CFG_CMD_BIND
	copyPacket = 2 // NFULNL_COPY_PACKET
)

// Listener is a group's only listener.
type Listener struct{ conn *netlink.Conn }

// Listen binds the group. It fails with EBUSY when another process has it.
func Listen(group uint16) (*Listener, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nflog: open netlink: %w", err)
	}
	// One message a packet: an event must not wait for others.
	for _, attrs := range [][]netlink.Attribute{
		{{Type: cfgCommand, Data: []byte{bind}}},
		{{Type: cfgMode, Data: []byte{0, 0, 0xff, 0xff, copyPacket, 0}}, {Type: cfgQueue, Data: binary.BigEndian.AppendUint32(nil, 1)}},
	} {
		data, err := netlink.MarshalAttributes(attrs)
		if err == nil {
			_, err = c.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.NFNL_SUBSYS_ULOG<<8 | msgConfig, Flags: netlink.Request | netlink.Acknowledge},
				Data:   append([]byte{unix.AF_UNSPEC, 0, byte(group >> 8), byte(group)}, data...),
			})
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("nflog: bind group %d: %w", group, err)
		}
	}
	return &Listener{c}, nil
}

// Run hands over packets until ctx is done, and closes the listener. Packets
// that came faster than they were taken are lost without an error.
func (l *Listener) Run(ctx context.Context, take func(Packet)) error {
	defer l.conn.Close()
	stop := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		msgs, err := l.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			continue
		case err != nil:
			return fmt.Errorf("nflog: %w", err)
		}
		for _, m := range msgs {
			if p, ok := decode(m); ok {
				take(p)
			}
		}
	}
}

// decode reads a packet's message; false for anything else.
func decode(m netlink.Message) (Packet, bool) {
	if m.Header.Type != unix.NFNL_SUBSYS_ULOG<<8|msgPacket || len(m.Data) < 4 {
		return Packet{}, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return Packet{}, false
	}
	var p Packet
	for ad.Next() {
		switch ad.Type() {
		case attrTime:
			if b := ad.Bytes(); len(b) == 16 {
				p.Time = time.Unix(int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))*1000)
			}
		case attrPayload:
			p.Data = ad.Bytes()
		case attrPrefix:
			p.Prefix = ad.String()
		}
	}
	return p, ad.Err() == nil && len(p.Data) > 0
}
