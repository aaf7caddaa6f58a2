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
func (c *Conn) Learned(s ruleset.Set) ([]Learned, error) {
	nl, err := c.dial()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	var b buffer
	b.str(unix.NFTA_SET_ELEM_LIST_TABLE, ruleset.Name)
	b.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	msgs, err := dump(nl, unix.NFT_MSG_GETSETELEM, unix.NFPROTO_IPV4, b)
	if err != nil {
		return nil, fmt.Errorf("nft: elements of %s: %w", s.Name, err)
	}
	var out []Learned
	for _, m := range msgs {
		list, _ := attributes(find(body(m), unix.NFTA_SET_ELEM_LIST_ELEMENTS))
		for _, l := range list {
			out = append(out, decodeLearned(s, l.data))
		}
	}
	return out, nil
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
// path adds; one that is there stays as it is.
func (c *Conn) Learn(s ruleset.Set, keys ...ruleset.Key) error {
	b := &batch{family: unix.NFPROTO_IPV4}
	var list []ruleset.Element
	for _, k := range keys {
		list = append(list, ruleset.Element{Key: k})
	}
	b.elements(unix.NFT_MSG_NEWSETELEM, s, 0, list)
	return c.commit(b)
}
