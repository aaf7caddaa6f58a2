package nft

import (
	"encoding/binary"
	"sort"
)

// attribute is one netlink attribute, flags stripped off the type.
type attribute struct {
	typ  uint16
	data []byte
}

// attributes parses a list of netlink attributes; false when b is none.
func attributes(b []byte) ([]attribute, bool) {
	var out []attribute
	for len(b) > 0 {
		if len(b) < 4 {
			return out, false
		}
		n := int(binary.NativeEndian.Uint16(b))
		typ := binary.NativeEndian.Uint16(b[2:]) & 0x3fff // NLA_TYPE_MASK
		if n < 4 || n > len(b) {
			return out, false
		}
		out = append(out, attribute{typ, b[4:n]})
		b = b[min((n+3)&^3, len(b)):]
	}
	return out, true
}

func find(list []attribute, typ uint16) []byte {
	for _, a := range list {
		if a.typ == typ {
			return a.data
		}
	}
	return nil
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// cstring is a string attribute without its NUL.
func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// canonical digests the expressions of a rule so that what was written and
// what the kernel dumps give the same number: the order of attributes, their
// flags, attributes that are all zero (defaults) and what counts packets or is
// known to the writer only do not matter.
func canonical(exprs []byte) uint64 {
	h := hash(14695981039346656037)
	list, ok := attributes(exprs)
	if !ok {
		return 0
	}
	for _, e := range list {
		parts, ok := attributes(e.data)
		if !ok {
			return 0
		}
		name := cstring(find(parts, 1)) // NFTA_EXPR_NAME
		h.bytes([]byte(name))
		h.byte(0)
		data, ok := attributes(find(parts, 2)) // NFTA_EXPR_DATA
		if !ok {
			return 0
		}
		h.list(significant(name, data))
	}
	return max(1, uint64(h))
}

// significant drops what differs between writing and dumping.
func significant(name string, list []attribute) []attribute {
	var out []attribute
	for _, a := range list {
		switch {
		case name == "counter": // bytes and packets
			continue
		case name == "lookup" && a.typ == 4: // NFTA_LOOKUP_SET_ID
			continue
		case name == "nat" && (a.typ == 4 || a.typ == 6) && string(a.data) == string(find(list, a.typ-1)):
			continue // the kernel prints a maximum equal to the minimum
		case name == "nat" && a.typ == 7: // NFTA_NAT_FLAGS: the kernel adds MAP_IPS and PROTO_SPECIFIED
			a.data = binary.BigEndian.AppendUint32(nil, u32(a.data)&^3)
		}
		out = append(out, a)
	}
	return out
}

type hash uint64

func (h *hash) byte(b byte) {
	*h ^= hash(b)
	*h *= 1099511628211
}

func (h *hash) bytes(b []byte) {
	for _, c := range b {
		h.byte(c)
	}
}

func (h *hash) list(list []attribute) {
	sort.SliceStable(list, func(i, j int) bool { return list[i].typ < list[j].typ })
	for _, a := range list {
		// Strings come with and without their NUL, values as they are.
		data := a.data
		for len(data) > 0 && data[len(data)-1] == 0 {
			data = data[:len(data)-1]
		}
		if len(data) == 0 {
			continue
		}
		h.byte(byte(a.typ))
		if inner, ok := attributes(a.data); ok && plausible(inner) {
			h.byte('{')
			h.list(inner)
			h.byte('}')
			continue
		}
		h.bytes(data)
		h.byte(0)
	}
}

// plausible tells nested attributes from values that look like a list. Both
// sides of a comparison hold the same values, so a wrong guess is harmless.
func plausible(list []attribute) bool {
	for _, a := range list {
		if a.typ == 0 || a.typ > 16 {
			return false
		}
	}
	return len(list) > 0
}
