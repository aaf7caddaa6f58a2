package dns

import (
	"bytes"
	"net/netip"
)

// reverse is a name under in-addr.arpa or ip6.arpa, read from its right end.
type reverse struct {
	v6    bool
	units [32]byte // octets, or nibbles for IPv6, most significant first
	n     int
	exact bool // no other labels stand before them
	start int  // offset in the name of the label that is the last unit
}

// parseReverse reads as many units as there are. Service discovery asks for
// names such as b._dns-sd._udp.0.1.168.192.in-addr.arpa: those are not exact.
func parseReverse(q *query) (r reverse, ok bool) {
	name := q.name()
	units, tail := 4, 14
	switch {
	case bytes.HasSuffix(name, []byte("\x07in-addr\x04arpa\x00")):
	case bytes.HasSuffix(name, []byte("\x03ip6\x04arpa\x00")):
		r.v6, units, tail = true, 32, 10
	default:
		return r, false
	}
	var starts [nameMax / 2]uint8
	labels, end := 0, len(name)-tail
	i := 0
	for i < end {
		starts[labels] = uint8(i)
		labels++
		i += 1 + int(name[i])
	}
	if i != end {
		return r, false // the suffix began inside a label
	}
	r.start = end
	for r.n < units && r.n < labels {
		at := int(starts[labels-1-r.n])
		v, ok := unit(name[at+1:at+1+int(name[at])], r.v6)
		if !ok {
			break
		}
		r.units[r.n], r.start = v, at
		r.n++
	}
	r.exact = r.n == labels
	return r, true
}

// unit reads one octet in decimal, or one hexadecimal digit.
func unit(label []byte, v6 bool) (byte, bool) {
	if v6 {
		if len(label) != 1 {
			return 0, false
		}
		switch c := label[0]; {
		case c-'0' < 10:
			return c - '0', true
		case c-'a' < 6:
			return c - 'a' + 10, true
		}
		return 0, false
	}
	v := 0
	for _, c := range label {
		if c-'0' >= 10 || len(label) > 3 {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return byte(v), len(label) > 0 && v <= 255
}

func (r *reverse) complete() bool { return r.v6 && r.n == 32 || !r.v6 && r.n == 4 }

// addr is the address that the name stands for, when it stands for exactly one.
func (r *reverse) addr() (netip.Addr, bool) {
	if !r.exact || !r.complete() {
		return netip.Addr{}, false
	}
	if !r.v6 {
		return netip.AddrFrom4([4]byte(r.units[:4])), true
	}
	var b [16]byte
	for i := range b {
		b[i] = r.units[2*i]<<4 | r.units[2*i+1]
	}
	return netip.AddrFrom16(b), true
}

// reserved tells whether the name is in one of the zones that the public DNS
// has nothing to say about: RFC 6303 section 4, and RFC 7793.
func (r *reverse) reserved() bool {
	u := r.units[:r.n]
	if r.v6 {
		zeros := 0
		for zeros < len(u) && u[zeros] == 0 {
			zeros++
		}
		return zeros == 32 || zeros == 31 && len(u) == 32 && u[31] == 1 || // ::, ::1
			under(u, 0xf, 0xd) || // unique local, as assigned by sites
			len(u) >= 3 && under(u, 0xf, 0xe) && u[2] >= 8 && u[2] <= 0xb || // link-local
			under(u, 2, 0, 0, 1, 0, 0xd, 0xb, 8) // documentation
	}
	switch {
	case len(u) == 0:
		return false
	case u[0] == 0 || u[0] == 10 || u[0] == 127:
		return true
	case len(u) == 1:
		return false
	case u[0] == 100:
		return u[1]&0xc0 == 64
	case u[0] == 172:
		return u[1]&0xf0 == 16
	}
	return under(u, 192, 168) || under(u, 169, 254) || under(u, 192, 0, 2) ||
		under(u, 198, 51, 100) || under(u, 203, 0, 113) || under(u, 255, 255, 255, 255)
}

func under(u []byte, prefix ...byte) bool { return bytes.HasPrefix(u, prefix) }
