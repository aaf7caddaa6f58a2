// Package conntrack reads and deletes entries of the kernel's connection table
// over ctnetlink. A dump is a stream: 16,000 entries cost one buffer.
package conntrack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Tuple is one direction of a connection. For GRE the ports are its keys: a
// PPTP call's ID is the DstPort of what is sent to the one who chose it. For ICMP
// SrcPort is the identifier. Other protocols have none.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// Entry is one connection.
type Entry struct {
	Protocol    uint8
	Zone        uint16
	Orig, Reply Tuple
	Status      Status
	TCPState    TCPState // of TCP only
	Timeout     time.Duration
	Mark        uint32
	ID          uint32
	// What each direction carried; zero unless nf_conntrack_acct is on.
	OrigPackets, OrigBytes   uint64
	ReplyPackets, ReplyBytes uint64
	Start                    time.Time // zero unless nf_conntrack_timestamp is on
	Helper                   string    // "pptp" on PPTP's control connections
	// Master is the connection that this one was expected by, as its
	// original tuple; its Src is invalid when there is none.
	Master Tuple
}

// Status is a set of IPS_* bits of linux/netfilter/nf_conntrack_common.h.
type Status uint32

// The bits that matter here.
const (
	Expected  Status = 1 << 0
	SeenReply Status = 1 << 1
	Assured   Status = 1 << 2
	SourceNAT Status = 1 << 4
	DestNAT   Status = 1 << 5
	Dying     Status = 1 << 9
	Offload   Status = 1 << 14
	HWOffload Status = 1 << 15
)

// Offloaded tells whether the flow passes the firewall's chains by.
func (e *Entry) Offloaded() bool { return e.Status&(Offload|HWOffload) != 0 }

// DNATed tells whether the destination was translated: a port forward.
func (e *Entry) DNATed() bool { return e.Status&DestNAT != 0 }

// ProtocolName is the protocol as people call it, its number when it has no name.
func (e *Entry) ProtocolName() string { return ruleset.ProtocolName(e.Protocol) }

// State is what conntrack(8) prints: the state of a TCP connection, of others
// only whether there was no answer yet.
func (e *Entry) State() string {
	switch {
	case e.Protocol == 6:
		return e.TCPState.String()
	case e.Status&SeenReply == 0:
		return "UNREPLIED"
	case e.Status&Assured != 0:
		return "ASSURED"
	}
	return ""
}

// TCPState is a state of linux/netfilter/nf_conntrack_tcp.h.
type TCPState uint8

// States of a connection that is over.
const (
	TimeWait TCPState = 7
	Close    TCPState = 8
)

// String is the state as conntrack(8) prints it, empty for other protocols.
func (s TCPState) String() string {
	names := [...]string{"", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	if int(s) < len(names) {
		return names[s]
	}
	return ""
}

// Attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoinfo     = 4
	ctaHelp          = 5
	ctaTimeout       = 7
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaTupleMaster   = 14
	ctaZone          = 18
	ctaTimestamp     = 20
)

var errShort = errors.New("conntrack: malformed attribute")

// attributes calls f for each attribute in b. Lengths and types are in host
// order, all values of ctnetlink in network order.
func attributes(b []byte, f func(typ uint16, data []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return errShort
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return errShort
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// decode reads the attributes of one entry, those after the nfgenmsg.
func decode(b []byte, e *Entry) error {
	*e = Entry{}
	return attributes(b, func(typ uint16, d []byte) error {
		switch typ {
		case ctaTupleOrig:
			return e.Orig.decode(d, &e.Protocol)
		case ctaTupleReply:
			return e.Reply.decode(d, nil)
		case ctaTupleMaster:
			return e.Master.decode(d, nil)
		case ctaStatus:
			return be32(d, (*uint32)(&e.Status))
		case ctaMark:
			return be32(d, &e.Mark)
		case ctaID:
			return be32(d, &e.ID)
		case ctaZone:
			return be16(d, &e.Zone)
		case ctaTimeout:
			var s uint32
			err := be32(d, &s)
			e.Timeout = time.Duration(s) * time.Second
			return err
		case ctaCountersOrig:
			return counters(d, &e.OrigPackets, &e.OrigBytes)
		case ctaCountersReply:
			return counters(d, &e.ReplyPackets, &e.ReplyBytes)
		case ctaTimestamp:
			return attributes(d, func(typ uint16, d []byte) error {
				if typ != 1 { // CTA_TIMESTAMP_START
					return nil
				}
				var ns uint64
				err := be64(d, &ns)
				e.Start = time.Unix(0, int64(ns))
				return err
			})
		case ctaHelp:
			return attributes(d, func(typ uint16, d []byte) error {
				if typ == 1 { // CTA_HELP_NAME
					e.Helper = cstring(d)
				}
				return nil
			})
		case ctaProtoinfo:
			return attributes(d, func(typ uint16, d []byte) error {
				if typ != 1 { // CTA_PROTOINFO_TCP
					return nil
				}
				return attributes(d, func(typ uint16, d []byte) error {
					if typ == 1 && len(d) > 0 { // CTA_PROTOINFO_TCP_STATE
						e.TCPState = TCPState(d[0])
					}
					return nil
				})
			})
		}
		return nil
	})
}

func (t *Tuple) decode(b []byte, protocol *uint8) error {
	return attributes(b, func(typ uint16, d []byte) error {
		switch typ {
		case 1: // CTA_TUPLE_IP
			return attributes(d, func(typ uint16, d []byte) error {
				a, ok := netip.AddrFromSlice(d)
				if !ok {
					return errShort
				}
				switch typ {
				case 1, 3: // CTA_IP_V4_SRC, CTA_IP_V6_SRC
					t.Src = a
				case 2, 4: // CTA_IP_V4_DST, CTA_IP_V6_DST
					t.Dst = a
				}
				return nil
			})
		case 2: // CTA_TUPLE_PROTO
			return attributes(d, func(typ uint16, d []byte) error {
				switch typ {
				case 1: // CTA_PROTO_NUM
					if len(d) < 1 {
						return errShort
					}
					if protocol != nil {
						*protocol = d[0]
					}
				case 2, 4, 7: // CTA_PROTO_SRC_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID
					return be16(d, &t.SrcPort)
				case 3: // CTA_PROTO_DST_PORT
					return be16(d, &t.DstPort)
				}
				return nil
			})
		}
		return nil
	})
}

func counters(b []byte, packets, bytes *uint64) error {
	return attributes(b, func(typ uint16, d []byte) error {
		switch typ {
		case 1: // CTA_COUNTERS_PACKETS
			return be64(d, packets)
		case 2: // CTA_COUNTERS_BYTES
			return be64(d, bytes)
		}
		return nil
	})
}

func be16(b []byte, v *uint16) error {
	if len(b) < 2 {
		return errShort
	}
	*v = binary.BigEndian.Uint16(b)
	return nil
}

func be32(b []byte, v *uint32) error {
	if len(b) < 4 {
		return errShort
	}
	*v = binary.BigEndian.Uint32(b)
	return nil
}

func be64(b []byte, v *uint64) error {
	if len(b) < 8 {
		return errShort
	}
	*v = binary.BigEndian.Uint64(b)
	return nil
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
