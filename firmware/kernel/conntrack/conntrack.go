package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages of the subsystem (IPCTNL_MSG_CT_*).
const (
	msgGet    = 1
	msgDelete = 2
	msgStats  = 5
)

// Conn opens a netlink socket for each operation, in the network namespace of
// the thread that calls.
type Conn struct{}

// New makes a Conn and tells when the kernel has no ctnetlink.
func New() (*Conn, error) {
	c := &Conn{}
	_, _, err := c.Fill()
	return c, err
}

func (c *Conn) dial() (*netlink.Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("conntrack: open netlink: %w", err)
	}
	return nl, nil
}

func request(typ int, flags netlink.HeaderFlags, family uint8, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | typ), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// Dump calls f for every connection of every zone and family. The entry is
// only good during the call. An entry may be seen twice, or not at all, when
// the table changes meanwhile. An error of f ends the dump and is returned.
func (c *Conn) Dump(f func(*Entry) error) error {
	var e Entry
	return c.dump(func(attrs []byte) error {
		if err := decode(attrs, &e); err != nil {
			return err
		}
		return f(&e)
	})
}

// dumpBuffer is what the kernel fills at a time, at most (netlink_dump).
const dumpBuffer = 32 << 10

// dump streams the entries' attributes. The library gathers a whole dump
// in memory, too much for a full table on a board of 64 MB, so the messages are
// read here.
func (c *Conn) dump(f func(attrs []byte) error) error {
	nl, err := c.dial()
	if err != nil {
		return err
	}
	defer nl.Close()
	if _, err := nl.Send(request(msgGet, netlink.Dump, unix.AF_UNSPEC, nil)); err != nil {
		return fmt.Errorf("conntrack: dump: %w", err)
	}
	rc, err := nl.SyscallConn()
	if err != nil {
		return fmt.Errorf("conntrack: dump: %w", err)
	}
	buf := make([]byte, dumpBuffer)
	for {
		var n, flags int
		var rerr error
		if err := rc.Read(func(fd uintptr) bool {
			for {
				n, _, flags, _, rerr = unix.Recvmsg(int(fd), buf, nil, unix.MSG_DONTWAIT)
				if rerr != unix.EINTR {
					return rerr != unix.EAGAIN
				}
			}
		}); err != nil {
			return fmt.Errorf("conntrack: dump: %w", err)
		}
		if rerr != nil {
			return fmt.Errorf("conntrack: dump: %w", rerr)
		}
		if flags&unix.MSG_TRUNC != 0 {
			return errors.New("conntrack: dump: a message is longer than the buffer")
		}
		done, err := messages(buf[:n], f)
		if done || err != nil {
			return err
		}
	}
}

// messages calls f for each entry of a datagram; done tells that it was the last.
func messages(b []byte, f func(attrs []byte) error) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return true, errShort
		}
		data := b[unix.NLMSG_HDRLEN:n]
		switch typ := binary.NativeEndian.Uint16(b[4:]); typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if len(data) >= 4 {
				if code := int32(binary.NativeEndian.Uint32(data)); code < 0 {
					return true, fmt.Errorf("conntrack: dump: %w", unix.Errno(-code))
				}
			}
			return true, nil
		case unix.NFNL_SUBSYS_CTNETLINK << 8: // IPCTNL_MSG_CT_NEW
			if len(data) < 4 {
				return true, errShort
			}
			if err := f(data[4:]); err != nil {
				return true, err
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return false, nil
}

// Delete deletes the entries that match picks, in every zone, and returns how
// many they were. An offloaded flow leaves the flowtable within a second or
// two. Entries that end by themselves meanwhile are no error.
func (c *Conn) Delete(match func(*Entry) bool) (int, error) {
	var found [][]byte
	var e Entry
	err := c.dump(func(attrs []byte) error {
		if err := decode(attrs, &e); err != nil {
			return err
		}
		if match(&e) {
			found = append(found, identity(attrs, e.Orig.Src.Is4()))
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		return 0, err
	}
	nl, err := c.dial()
	if err != nil {
		return 0, err
	}
	defer nl.Close()
	n := 0
	var errs []error
	for _, id := range found {
		_, err := nl.Execute(request(msgDelete, netlink.Acknowledge, id[0], id[1:]))
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.ENOENT):
		default:
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return n, fmt.Errorf("conntrack: delete %d of %d entries: %w", len(errs), len(found), errs[0])
	}
	return n, nil
}

// identity is what names one entry to the kernel: its family in front, then
// original tuple, zone and ID. The ID keeps a newer connection
// with the same addresses and ports alive.
func identity(attrs []byte, v4 bool) []byte {
	out := []byte{unix.AF_INET6}
	if v4 {
		out[0] = unix.AF_INET
	}
	_ = attributes(attrs, func(typ uint16, d []byte) error {
		if typ == ctaTupleOrig || typ == ctaZone || typ == ctaID {
			if typ == ctaTupleOrig {
				typ |= unix.NLA_F_NESTED
			}
			out = binary.NativeEndian.AppendUint16(out, uint16(4+len(d)))
			out = binary.NativeEndian.AppendUint16(out, typ)
			out = append(out, d...)
			for (len(out)-1)&3 != 0 {
				out = append(out, 0)
			}
		}
		return nil
	})
	return out
}

// Fill tells how many entries there are and how many there can be.
func (c *Conn) Fill() (used, max int, err error) {
	nl, err := c.dial()
	if err != nil {
		return 0, 0, err
	}
	defer nl.Close()
	// The kernel marks its one answer as part of many; only the acknowledgement
	// ends it for the library.
	msgs, err := nl.Execute(request(msgStats, netlink.Acknowledge, unix.AF_UNSPEC, nil))
	if err != nil {
		return 0, 0, fmt.Errorf("conntrack: statistics: %w", err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 || m.Header.Type == netlink.Error {
			continue
		}
		err = attributes(m.Data[4:], func(typ uint16, d []byte) error {
			var v uint32
			switch typ {
			case 1: // CTA_STATS_GLOBAL_ENTRIES
				err := be32(d, &v)
				used = int(v)
				return err
			case 2: // CTA_STATS_GLOBAL_MAX_ENTRIES
				err := be32(d, &v)
				max = int(v)
				return err
			}
			return nil
		})
	}
	return used, max, err
}
