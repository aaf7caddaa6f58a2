package nft

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// magic is nft's number of a type, as kept for `nft list` alone.
func magic(types []ruleset.Type) (m uint32) {
	for _, t := range types {
		m = m<<6 | typeMagic(t)
	}
	return m
}

func typeMagic(t ruleset.Type) uint32 {
	switch t {
	case ruleset.IPv4Addr:
		return 7
	case ruleset.EtherAddr:
		return 9
	case ruleset.InetProto:
		return 12
	case ruleset.InetService:
		return 13
	case ruleset.Mark:
		return 19
	case ruleset.IfName:
		return 41
	}
	return 0
}

// size is the number of bytes of a key or of data in the kernel.
func size(types []ruleset.Type) (n int) {
	if len(types) == 1 {
		return types[0].Size()
	}
	for _, t := range types {
		n += t.Width()
	}
	return n
}

func setFlags(s ruleset.Set) (f uint32) {
	if s.IsMap() {
		f |= unix.NFT_SET_MAP
	}
	if s.Interval {
		f |= unix.NFT_SET_INTERVAL
	}
	if s.Learned {
		f |= unix.NFT_SET_EVAL
		if s.Timeout > 0 { // or what counts connections has no place in it
			f |= unix.NFT_SET_TIMEOUT
		}
	}
	return f
}

func (b *batch) newSet(s ruleset.Set, id uint32) {
	h := header(b.family)
	h.str(unix.NFTA_SET_TABLE, ruleset.Name)
	h.str(unix.NFTA_SET_NAME, s.Name)
	h.u32(unix.NFTA_SET_FLAGS, setFlags(s))
	h.u32(unix.NFTA_SET_KEY_TYPE, magic(s.Key))
	h.u32(unix.NFTA_SET_KEY_LEN, uint32(size(s.Key)))
	if s.Verdicts {
		h.u32(unix.NFTA_SET_DATA_TYPE, dataVerdict)
		h.u32(unix.NFTA_SET_DATA_LEN, 0)
	} else if s.IsMap() {
		h.u32(unix.NFTA_SET_DATA_TYPE, magic(s.Data))
		h.u32(unix.NFTA_SET_DATA_LEN, uint32(size(s.Data)))
	}
	h.u32(unix.NFTA_SET_ID, id)
	if s.Timeout > 0 {
		h.u64(unix.NFTA_SET_TIMEOUT, uint64(s.Timeout.Milliseconds()))
	}
	if s.Size > 0 {
		end := h.nest(unix.NFTA_SET_DESC)
		h.u32(unix.NFTA_SET_DESC_SIZE, uint32(s.Size))
		end()
	}
	// How `nft list` has to read the keys: marks and interface names are in
	// host order, everything else is big endian.
	order := uint32(2)
	if len(s.Key) == 1 && (s.Key[0] == ruleset.Mark || s.Key[0] == ruleset.IfName) {
		order = 1
	}
	h.attr(unix.NFTA_SET_USERDATA, binary.NativeEndian.AppendUint32([]byte{udKeyByteOrder, 4}, order))
	b.add("set "+s.Name, unix.NFT_MSG_NEWSET, create(unix.NFT_MSG_NEWSET), h)
}

func (b *batch) delSet(name string) {
	h := header(b.family)
	h.str(unix.NFTA_SET_TABLE, ruleset.Name)
	h.str(unix.NFTA_SET_NAME, name)
	b.add("removal of set "+name, unix.NFT_MSG_DELSET, 0, h)
}

// elements adds (NFT_MSG_NEWSETELEM) or deletes (NFT_MSG_DELSETELEM,
// msgDestroyElements) elements, in as many messages as it takes.
func (b *batch) elements(typ int, s ruleset.Set, id uint32, elements []ruleset.Element) {
	for first := 0; first < len(elements); {
		h := append(make(buffer, 0, min(chunkBytes+512, 128+128*(len(elements)-first))), header(b.family)...)
		h.str(unix.NFTA_SET_ELEM_LIST_TABLE, ruleset.Name)
		h.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		if id != 0 {
			h.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		}
		end := h.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		n := first
		for ; n < len(elements) && n-first < chunkElements && len(h) < chunkBytes; n++ {
			element(&h, &s, &elements[n], typ != unix.NFT_MSG_NEWSETELEM)
		}
		end()
		what := fmt.Sprintf("set %s: %s", s.Name, s.ElementText(elements[first]))
		if n-first > 1 {
			what += fmt.Sprintf(" and %d more", n-first-1)
		}
		if typ != unix.NFT_MSG_NEWSETELEM {
			what = "removal from " + what
		}
		b.add(what, typ, create(typ), h)
		first = n
	}
}

func element(h *buffer, s *ruleset.Set, e *ruleset.Element, del bool) {
	start := h.open(unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED)
	value(h, unix.NFTA_SET_ELEM_KEY, s.Key, e.Key)
	if !del {
		switch {
		case s.Verdicts:
			data := h.open(unix.NFTA_SET_ELEM_DATA | unix.NLA_F_NESTED)
			verdict(h, e.Verdict)
			h.close(data)
		case len(s.Data) > 0:
			value(h, unix.NFTA_SET_ELEM_DATA, s.Data, e.Data)
		}
		if s.Learned && s.Timeout > 0 {
			// Of an element that is there only an explicit time changes (Linux 6.12).
			h.u64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(s.Timeout.Milliseconds()))
		}
		if c := ruleset.Comment(e.Why); c != "" {
			data := h.open(unix.NFTA_SET_ELEM_USERDATA)
			*h = append(*h, udComment, byte(len(c)+1))
			*h = append(append(*h, c...), 0)
			h.close(data)
			h.pad()
		}
	}
	h.close(start)
	if !s.Interval {
		return
	}
	// The end of a range is an element of its own, the first key after it.
	// After the last key of all there is none: the range is open.
	if next, ok := successor(e.Last(), s.Key[0].Size()); ok {
		start := h.open(unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED)
		h.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		value(h, unix.NFTA_SET_ELEM_KEY, s.Key, next)
		h.close(start)
	}
}

// successor is the key after k, whose value has n bytes; false after the last.
func successor(k ruleset.Key, n int) (ruleset.Key, bool) {
	b := []byte(k)
	for i := n - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return ruleset.Key(b), true
		}
	}
	return "", false
}

// predecessor is the key before k, whose value has n bytes.
func predecessor(k ruleset.Key, n int) ruleset.Key {
	b := []byte(k)
	for i := n - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return ruleset.Key(b)
}

func value(h *buffer, typ uint16, types []ruleset.Type, k ruleset.Key) {
	start := h.open(typ | unix.NLA_F_NESTED)
	v := h.open(unix.NFTA_DATA_VALUE)
	from := len(*h)
	*h = append(*h, k...)
	hostOrder(types, (*h)[from:])
	*h = (*h)[:from+size(types)]
	h.close(v)
	h.pad()
	h.close(start)
}

// hostOrder turns the host-order fields (marks) of a key between network and
// host order.
func hostOrder(types []ruleset.Type, k []byte) []byte {
	one := uint16(1)
	if little := *(*byte)(unsafe.Pointer(&one)) == 1; !little {
		return k
	}
	n := 0
	for _, t := range types {
		if t == ruleset.Mark && len(k) >= n+4 {
			k[n], k[n+1], k[n+2], k[n+3] = k[n+3], k[n+2], k[n+1], k[n]
		}
		n += t.Width()
	}
	return k
}

func verdict(h *buffer, v ruleset.Verdict) {
	end := h.nest(unix.NFTA_DATA_VERDICT)
	h.u32(unix.NFTA_VERDICT_CODE, uint32(verdictCode(v.Kind)))
	if v.Chain != "" {
		h.str(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	end()
}
