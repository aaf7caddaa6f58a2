package nft

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Learned is an element of a learned set.
type Learned struct {
	Key, Data      ruleset.Key
	Expires        time.Duration // from now; 0 never
	Packets, Bytes uint64        // of sets whose elements count
}

// Learned reads what is in a learned set of table ip.
func (c *Conn) Learned(s ruleset.Set) (out []Learned, err error) {
	err = c.EachLearned(s, func(e Learned) { out = append(out, e) })
	return out, err
}

// EachLearned is Learned for who needs the elements only one by one: a set
// may have thousands.
func (c *Conn) EachLearned(s ruleset.Set, f func(Learned)) error {
	nl, err := c.dial()
	if err != nil {
		return err
	}
	defer nl.Close()
	var b buffer
	b.str(unix.NFTA_SET_ELEM_LIST_TABLE, ruleset.Name)
	b.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	msgs, err := dump(nl, unix.NFT_MSG_GETSETELEM, unix.NFPROTO_IPV4, b)
	if err != nil {
		return fmt.Errorf("nft: elements of %s: %w", s.Name, err)
	}
	for _, m := range msgs {
		list, _ := attributes(find(body(m), unix.NFTA_SET_ELEM_LIST_ELEMENTS))
		for _, l := range list {
			f(decodeLearned(s, l.data))
		}
	}
	return nil
}

func decodeLearned(s ruleset.Set, data []byte) Learned {
	e, _ := decodeElement(s, data)
	out := Learned{Key: e.Key, Data: e.Data}
	l, _ := attributes(data)
	if d := find(l, unix.NFTA_SET_ELEM_EXPIRATION); len(d) == 8 {
		out.Expires = time.Duration(binary.BigEndian.Uint64(d)) * time.Millisecond
	}
	parts, _ := attributes(find(l, unix.NFTA_SET_ELEM_EXPR))
	if cstring(find(parts, unix.NFTA_EXPR_NAME)) == "counter" {
		c, _ := attributes(find(parts, unix.NFTA_EXPR_DATA))
		if d := find(c, unix.NFTA_COUNTER_BYTES); len(d) == 8 {
			out.Bytes = binary.BigEndian.Uint64(d)
		}
		if d := find(c, unix.NFTA_COUNTER_PACKETS); len(d) == 8 {
			out.Packets = binary.BigEndian.Uint64(d)
		}
	}
	return out
}

// Learn adds elements to a learned set of table ip, beside what the packet
// path adds; one that is there lives on as if it were new. One that has other
// data stays, and the error is EEXIST.
func (c *Conn) Learn(s ruleset.Set, elements ...ruleset.Element) error {
	b := &batch{family: unix.NFPROTO_IPV4}
	b.elements(unix.NFT_MSG_NEWSETELEM, s, 0, elements)
	return c.change(b)
}

// Relearn is Learn for elements that take the place of those that are there,
// whatever their data, in one transaction. It needs Linux 6.3.
func (c *Conn) Relearn(s ruleset.Set, elements ...ruleset.Element) error {
	b := &batch{family: unix.NFPROTO_IPV4}
	b.elements(msgDestroyElements, s, 0, elements)
	b.elements(unix.NFT_MSG_NEWSETELEM, s, 0, elements)
	return c.change(b)
}

// Unlearn removes elements from a learned set of table ip, those that are
// there. It needs Linux 6.3.
func (c *Conn) Unlearn(s ruleset.Set, elements ...ruleset.Element) error {
	b := &batch{family: unix.NFPROTO_IPV4}
	b.elements(msgDestroyElements, s, 0, elements)
	return c.change(b)
}
