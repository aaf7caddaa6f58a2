package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Registers, as the kernel prints them: the four 32-bit parts of the first
// 128-bit register, then those of the second.
func register(slot int) uint32 {
	switch {
	case slot%4 == 0:
		return uint32(1 + slot/4) // NFT_REG_1, NFT_REG_2
	default:
		return uint32(unix.NFT_REG32_00 + slot)
	}
}

// host is a host-order register value: marks, conntrack state and status.
func host(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func compile(family uint8, r ruleset.Rule) ([]expr.Any, error) {
	var out []expr.Any
	for _, e := range r.Exprs {
		c, err := compileExpr(e)
		if err != nil {
			return nil, err
		}
		if family == unix.NFPROTO_IPV4 {
			c = withoutFamily(c)
		}
		out = append(out, c...)
	}
	return out, nil
}

// withoutFamily leaves out that the packet must be IPv4: in family ip it is.
func withoutFamily(list []expr.Any) []expr.Any {
	out := list[:0]
	for i := 0; i < len(list); i++ {
		if m, ok := list[i].(*expr.Meta); ok && m.Key == expr.MetaKeyNFPROTO {
			i++ // the comparison
			continue
		}
		out = append(out, list[i])
	}
	return out
}

func compileExpr(e ruleset.Expr) ([]expr.Any, error) {
	switch e := e.(type) {
	case ruleset.Iif:
		return join(meta(expr.MetaKeyIIFNAME, 0), eq(ifname(e.Name))), nil
	case ruleset.Oif:
		return join(meta(expr.MetaKeyOIFNAME, 0), eq(ifname(e.Name))), nil
	case ruleset.IPv4:
		return ipv4(), nil
	case ruleset.L4:
		return l4(e.Protocol), nil
	case ruleset.State:
		return ctBits(expr.CtKeySTATE, uint32(e)), nil
	case ruleset.DNATed:
		return ctBits(expr.CtKeySTATUS, 1<<5), nil // IPS_DST_NAT
	case ruleset.Source:
		return address(12, e.Prefix, e.Not), nil
	case ruleset.Dest:
		return address(16, e.Prefix, e.Not), nil
	case ruleset.Dport:
		match := join(th(2, 2, 0), eq(port(e.Port)))
		if e.Protocol == 0 {
			return match, nil
		}
		return join(l4(e.Protocol), match), nil
	case ruleset.Sport:
		return join(l4(e.Protocol), th(0, 2, 0), eq(port(e.Port))), nil
	case ruleset.Echo:
		return join(ipv4(), l4(ruleset.ICMP), th(0, 1, 0), eq([]byte{8})), nil
	case ruleset.SYN:
		return join(l4(ruleset.TCP), th(13, 1, 0), mask([]byte{0x06}), eq([]byte{0x02})), nil
	case ruleset.In:
		keys, err := load(e.Key)
		return append(keys, &expr.Lookup{SourceRegister: 1, SetName: e.Set, Invert: e.Not}), err
	case ruleset.Vmap:
		keys, err := load(e.Key)
		return append(keys, &expr.Lookup{SourceRegister: 1, SetName: e.Map, IsDestRegSet: true}), err
	}
	return compileStatement(e)
}

func compileStatement(e ruleset.Expr) ([]expr.Any, error) {
	switch e := e.(type) {
	case ruleset.DNAT:
		keys, err := load(e.Key)
		return append(keys, &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: e.Map},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: register(1)}), err
	case ruleset.Masquerade:
		return []expr.Any{&expr.Masq{}}, nil
	case ruleset.SNAT: // not expr.Masq: it leaves out the flag that makes the kernel take the ports
		return append(immediate(e.Addr),
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, e.First)},
			&expr.Immediate{Register: 3, Data: binary.BigEndian.AppendUint16(nil, e.Last)},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 3},
		), nil
	case ruleset.ClampMSS:
		return []expr.Any{
			&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: 1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
		}, nil
	case ruleset.Offload:
		return []expr.Any{&expr.FlowOffload{Name: e.Flowtable}}, nil
	case ruleset.SetHelper:
		return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: e.Name}}, nil
	case ruleset.Limit:
		return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(e.Rate), Unit: expr.LimitTimeSecond, Burst: uint32(e.Burst)}}, nil
	case ruleset.Counter:
		return []expr.Any{&expr.Counter{}}, nil
	case ruleset.Reject:
		if e == ruleset.TCPReset {
			return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}, nil
		}
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}, nil
	case ruleset.Verdict:
		return []expr.Any{&expr.Verdict{Kind: verdictCode(e.Kind), Chain: e.Chain}}, nil
	}
	if out, ok := compilePayload(e); ok {
		return out, nil
	}
	if out, ok := compileMark(e); ok {
		return out, nil
	}
	return compileTunnel(e)
}

func verdictCode(k ruleset.VerdictKind) expr.VerdictKind {
	switch k {
	case ruleset.Accept:
		return expr.VerdictAccept
	case ruleset.Return:
		return expr.VerdictReturn
	case ruleset.Jump:
		return expr.VerdictJump
	case ruleset.Goto:
		return expr.VerdictGoto
	}
	return expr.VerdictDrop
}

func join(lists ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func meta(key expr.MetaKey, slot int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register(slot)}}
}

func th(offset, n uint32, slot int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register(slot), Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: n}}
}

func nh(offset, n uint32, slot int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register(slot), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}}
}

func eq(v []byte) []expr.Any  { return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: v}} }
func neq(v []byte) []expr.Any { return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: v}} }

func mask(m []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(m)), Mask: m, Xor: make([]byte, len(m))}}
}

func ipv4() []expr.Any {
	return join(meta(expr.MetaKeyNFPROTO, 0), eq([]byte{unix.NFPROTO_IPV4}))
}

func l4(p uint8) []expr.Any { return join(meta(expr.MetaKeyL4PROTO, 0), eq([]byte{p})) }

func port(p int) []byte { return []byte{byte(p >> 8), byte(p)} }

func ifname(n string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b[:unix.IFNAMSIZ-1], n)
	return b
}

// ctBits matches when one of the bits is set: cheaper than a lookup, the
// commonest match of all.
func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return join([]expr.Any{&expr.Ct{Key: key, Register: 1}}, mask(host(bits)), neq(host(0)))
}

func address(offset uint32, p netip.Prefix, not bool) []expr.Any {
	out := join(ipv4(), nh(offset, 4, 0))
	if p.Bits() < 32 {
		out = append(out, mask(net.CIDRMask(p.Bits(), 32))...)
	}
	a := p.Masked().Addr().As4()
	if not {
		return append(out, neq(a[:])...)
	}
	return append(out, eq(a[:])...)
}

// load puts a key into the registers from the first on.
func load(fields ruleset.Fields) ([]expr.Any, error) { return loadAt(fields, 0) }

func loadAt(fields ruleset.Fields, slot int) ([]expr.Any, error) {
	var out []expr.Any
	for _, f := range fields {
		n := 1
		switch f {
		case ruleset.FieldProtocol:
			out = append(out, meta(expr.MetaKeyL4PROTO, slot)...)
		case ruleset.FieldSport:
			out = append(out, th(0, 2, slot)...)
		case ruleset.FieldDport:
			out = append(out, th(2, 2, slot)...)
		case ruleset.FieldSource:
			out = append(out, nh(12, 4, slot)...)
		case ruleset.FieldDest:
			out = append(out, nh(16, 4, slot)...)
		case ruleset.FieldIif:
			out, n = append(out, meta(expr.MetaKeyIIFNAME, slot)...), 4
		case ruleset.FieldOif:
			out, n = append(out, meta(expr.MetaKeyOIFNAME, slot)...), 4
		case ruleset.FieldEtherSource:
			out, n = append(out, &expr.Payload{DestRegister: register(slot), Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}), 2
		case ruleset.FieldMark:
			out = append(out, meta(expr.MetaKeyMARK, slot)...)
		case ruleset.FieldFirstSource:
			out = append(out, original{&expr.Ct{Key: ctSourceIPv4, Register: register(slot)}})
		case ruleset.FieldFirstSport:
			out = append(out, original{&expr.Ct{Key: expr.CtKeyPROTOSRC, Register: register(slot)}})
		default:
			o, size, ok := headerField(f)
			if !ok {
				return nil, fmt.Errorf("no translation for field %d", f)
			}
			out = append(out, th(o, size, slot)...)
		}
		slot += n
	}
	for _, f := range fields {
		if f == ruleset.FieldSource || f == ruleset.FieldDest {
			out = append(ipv4(), out...)
			break
		}
	}
	if slices.Contains(fields, ruleset.FieldEtherSource) {
		out = append(join(meta(expr.MetaKeyIIFTYPE, 0), eq(binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER))), out...)
	}
	return out, nil
}
