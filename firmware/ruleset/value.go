package ruleset

import (
	"net/netip"
	"strconv"
	"strings"
)

// Type is the type of one field of a key or of map data.
type Type uint8

// The types that are used, named as nft does.
const (
	IPv4Addr Type = iota + 1
	InetProto
	InetService
	IfName
	Mark
	EtherAddr
)

var typeNames = [...]string{IPv4Addr: "ipv4_addr", InetProto: "inet_proto", InetService: "inet_service", IfName: "ifname", Mark: "mark", EtherAddr: "ether_addr"}
var typeSizes = [...]int{IPv4Addr: 4, InetProto: 1, InetService: 2, IfName: 16, Mark: 4, EtherAddr: 6}

// String is nft's name of the type.
func (t Type) String() string {
	if int(t) < len(typeNames) && t > 0 {
		return typeNames[t]
	}
	return "type" + strconv.Itoa(int(t))
}

// Size is the number of bytes of a value.
func (t Type) Size() int {
	if int(t) < len(typeSizes) && t > 0 {
		return typeSizes[t]
	}
	return 0
}

// Width is Size padded to the 4 bytes that a field takes in a concatenation.
func (t Type) Width() int { return (t.Size() + 3) &^ 3 }

func typesText(ts []Type) string {
	var b strings.Builder
	for i, t := range ts {
		if i > 0 {
			b.WriteString(" . ")
		}
		b.WriteString(t.String())
	}
	return b.String()
}

// Key is a value or a concatenation of them: network byte order, every field
// padded with zeros to 4 bytes. Marks stand most significant byte first here;
// the kernel writer turns them into host order.
type Key string

// Cat joins fields to one key.
func Cat(fields ...Key) Key {
	if len(fields) == 1 {
		return fields[0]
	}
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(string(f))
	}
	return Key(b.String())
}

// Addr is an IPv4 address as a field.
func Addr(a netip.Addr) Key {
	b := a.Unmap().As4()
	return Key(b[:])
}

// Ether is a MAC (EUI-48, as 02:00:00:00:00:01) as a field; what is none is
// that of no device.
func Ether(mac string) Key {
	var b [8]byte
	for i := range 6 {
		if v, err := strconv.ParseUint(mac[min(3*i, len(mac)):min(3*i+2, len(mac))], 16, 8); err == nil {
			b[i] = byte(v)
		}
	}
	return Key(b[:])
}

// Protocol is an IP protocol number as a field.
func Protocol(p uint8) Key { return Key([]byte{p, 0, 0, 0}) }

// PortNumber is a TCP or UDP port as a field.
func PortNumber(p int) Key { return Key([]byte{byte(p >> 8), byte(p), 0, 0}) }

// Interface is an interface's name as a field.
func Interface(name string) Key {
	var b [16]byte
	copy(b[:15], name)
	return Key(b[:])
}

// MarkValue is a packet or connection mark as a field.
func MarkValue(m uint32) Key { return Key([]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}) }

// ProtocolName is an IP protocol's name in nft's syntax and in what conntrack(8)
// prints; its number when it has none here.
func ProtocolName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case 2:
		return "igmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 47:
		return "gre"
	case 50:
		return "esp"
	case 51:
		return "ah"
	case 58:
		return "icmpv6"
	case 115:
		return "l2tp"
	}
	return strconv.Itoa(int(p))
}

// KeyText prints a key as nft does.
func KeyText(types []Type, k Key) string {
	var b strings.Builder
	for i, t := range types {
		if i > 0 {
			b.WriteString(" . ")
		}
		w := t.Width()
		if len(k) < w {
			b.WriteString("?")
			return b.String()
		}
		f := k[:w]
		k = k[w:]
		switch t {
		case IPv4Addr:
			b.WriteString(netip.AddrFrom4([4]byte([]byte(f))).String())
		case InetProto:
			b.WriteString(ProtocolName(f[0]))
		case InetService:
			b.WriteString(strconv.Itoa(int(f[0])<<8 | int(f[1])))
		case IfName:
			b.WriteString(strconv.Quote(strings.TrimRight(string(f), "\x00")))
		case EtherAddr:
			for i, c := range []byte(f[:6]) {
				if i > 0 {
					b.WriteByte(':')
				}
				if c < 16 {
					b.WriteByte('0')
				}
				b.WriteString(strconv.FormatUint(uint64(c), 16))
			}
		case Mark:
			n := uint64(f[0])<<24 | uint64(f[1])<<16 | uint64(f[2])<<8 | uint64(f[3])
			h := strconv.FormatUint(n, 16)
			b.WriteString("0x" + strings.Repeat("0", 8-len(h)) + h)
		}
	}
	return b.String()
}

// rangeText prints a range as nft does: a prefix where it is one.
func rangeText(t Type, from, to Key) string {
	if from == to {
		return KeyText([]Type{t}, from)
	}
	if t == IPv4Addr {
		a, b := netip.AddrFrom4([4]byte([]byte(from))), netip.AddrFrom4([4]byte([]byte(to)))
		for bits := 0; bits < 32; bits++ {
			if p := netip.PrefixFrom(a, bits); p.Masked().Addr() == a && PrefixEnd(p) == Addr(b) {
				return p.String()
			}
		}
	}
	return KeyText([]Type{t}, from) + "-" + KeyText([]Type{t}, to)
}

// PrefixEnd is the last address of an IPv4 prefix, as a field.
func PrefixEnd(p netip.Prefix) Key {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return Key(b[:])
}
