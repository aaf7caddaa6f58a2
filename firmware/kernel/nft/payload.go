package nft

import (
	"encoding/binary"

	"github.com/google/nftables/expr"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// payloadInner is NFT_PAYLOAD_INNER_HEADER of linux/netfilter/nf_tables.h, Linux 5.16.
const payloadInner expr.PayloadBase = 3

// compilePayload translates what looks into what packets carry.
func compilePayload(e ruleset.Expr) ([]expr.Any, bool) {
	switch e := e.(type) {
	case ruleset.Payload:
		base := expr.PayloadBaseTransportHeader
		if e.Base == ruleset.Inner {
			base = payloadInner
		}
		number := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v)[8-e.Len:] }
		out := []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: uint32(e.Offset), Len: uint32(e.Len)}}
		if e.Mask != 0 {
			out = append(out, mask(number(e.Mask))...)
		}
		return append(out, eq(number(e.Value))...), true
	case ruleset.UDPLength:
		out := join(l4(ruleset.UDP), th(4, 2, 0))
		if e.Min == e.Max {
			return append(out, eq(port(e.Min))...), true
		}
		return append(out, &expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: port(e.Min)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: port(e.Max)}), true
	case ruleset.UDPBlocks:
		return join(l4(ruleset.UDP), th(4, 2, 0), mask(port(e.Size-1)), eq(port(8))), true
	case ruleset.Answers:
		return join([]expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}}, eq([]byte{1})), true
	case ruleset.PSH:
		return join(l4(ruleset.TCP), th(13, 1, 0), mask([]byte{8}), neq([]byte{0})), true
	}
	return nil, false
}
