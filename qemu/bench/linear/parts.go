package linear

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Connection states, as the kernel numbers their bits.
const (
	invalid     = 1
	established = 2
	related     = 4
)

func iif(device string) part {
	return part{text: fmt.Sprintf("iifname %q", device), exprs: device16(expr.MetaKeyIIFNAME, device)}
}

func oif(device string) part {
	return part{text: fmt.Sprintf("oifname %q", device), exprs: device16(expr.MetaKeyOIFNAME, device)}
}

func device16(key expr.MetaKey, device string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return append(meta(key), equal(name)...)
}

var ipv4 = part{text: "meta nfproto ipv4", exprs: append(meta(expr.MetaKeyNFPROTO), equal([]byte{unix.NFPROTO_IPV4})...)}

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP}

func l4(protocol string) part {
	return part{text: "meta l4proto " + protocol, exprs: append(meta(expr.MetaKeyL4PROTO), equal([]byte{protocols[protocol]})...)}
}

// dport matches the protocol, too.
func dport(protocol string, n int) part {
	return part{text: fmt.Sprintf("%s dport %d", protocol, n), exprs: concat(l4(protocol).exprs,
		load(expr.PayloadBaseTransportHeader, 2, 2), equal(binary.BigEndian.AppendUint16(nil, uint16(n))))}
}

// ports matches both: side by side they are one comparison.
func ports(protocol string, from, to uint32) part {
	return part{text: fmt.Sprintf("%s sport %d %s dport %d", protocol, from, protocol, to), exprs: concat(l4(protocol).exprs,
		load(expr.PayloadBaseTransportHeader, 0, 4), equal(binary.BigEndian.AppendUint32(nil, from<<16|to)))}
}

func from(p netip.Prefix) part { return address("ip saddr ", 12, p) }
func to(a netip.Addr) part     { return address("ip daddr ", 16, netip.PrefixFrom(a, 32)) }

// address compares as many bytes as nft does: none of a mask where it ends at a byte.
func address(field string, offset uint32, p netip.Prefix) part {
	text := p.Masked().String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	a := p.Masked().Addr().AsSlice()
	exprs := append([]expr.Any(nil), ipv4.exprs...)
	if p.Bits()%8 == 0 {
		n := p.Bits() / 8
		exprs = append(exprs, load(expr.PayloadBaseNetworkHeader, offset, uint32(n))...)
		return part{text: field + text, exprs: append(exprs, equal(a[:n])...)}
	}
	exprs = append(append(exprs, load(expr.PayloadBaseNetworkHeader, offset, 4)...), masked(net.CIDRMask(p.Bits(), 32))...)
	return part{text: field + text, exprs: append(exprs, equal(a)...)}
}

var ping = part{text: "icmp type echo-request",
	exprs: concat(ipv4.exprs, l4("icmp").exprs, load(expr.PayloadBaseTransportHeader, 0, 1), equal([]byte{8}))}

// clamp keeps TCP's segments within the path's MTU.
var clamp = part{text: "tcp flags syn / syn,rst tcp option maxseg size set rt mtu",
	exprs: concat(l4("tcp").exprs, load(expr.PayloadBaseTransportHeader, 13, 1), masked([]byte{0x06}), equal([]byte{0x02}), []expr.Any{
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	})}

// dnated matches connections whose destination was translated.
var dnated = part{text: "ct status dnat", exprs: bits(expr.CtKeySTATUS, 1<<5)}

// known matches packets of connections that there are.
var known = part{text: "ct state established,related", exprs: bits(expr.CtKeySTATE, established|related)}

var (
	carry = part{text: "ct state vmap { established : accept, related : accept }",
		states: []stateVerdict{{established, expr.VerdictAccept}, {related, expr.VerdictAccept}}}
	carryAndDrop = part{text: "ct state vmap { established : accept, related : accept, invalid : drop }",
		states: []stateVerdict{{established, expr.VerdictAccept}, {related, expr.VerdictAccept}, {invalid, expr.VerdictDrop}}}
)

var (
	accept     = part{text: "accept", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	drop       = part{text: "drop", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}
	masquerade = part{text: "masquerade", exprs: []expr.Any{&expr.Masq{}}}
	helper     = part{text: `ct helper set "pptp"`, exprs: []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: "pptp"}}}
	offload    = part{text: "flow add @ft", exprs: []expr.Any{&expr.FlowOffload{Name: "ft"}}}
	reset      = part{text: "reject with tcp reset", exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
	prohibited = part{text: "reject with icmpx admin-prohibited",
		exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}}
)

func jump(name string) part {
	return part{text: "jump " + name, exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}}
}

func limit(rate, burst int) part {
	return part{text: fmt.Sprintf("limit rate %d/second burst %d packets", rate, burst),
		exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: uint32(burst)}}}
}

func dnat(a netip.Addr, port int) part {
	return part{text: fmt.Sprintf("dnat ip to %s:%d", a, port), exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, uint16(port))},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}}
}

func snat(a netip.Addr) part {
	return part{text: "snat ip to " + a.String(), exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}}
}

func concat(lists ...[]expr.Any) (all []expr.Any) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func equal(v []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: v}}
}

func load(base expr.PayloadBase, offset, n uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: n}}
}

func masked(mask []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}}
}

// bits matches when one of them is set.
func bits(key expr.CtKey, mask uint32) []expr.Any {
	return concat([]expr.Any{&expr.Ct{Key: key, Register: 1}}, masked(binary.NativeEndian.AppendUint32(nil, mask)),
		[]expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}})
}
