package nft

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// udpHeader is what stands before what UDP carries.
const udpHeader = 8

// ctSourceIPv4 is NFT_CT_SRC_IP of linux/netfilter/nf_tables.h.
const ctSourceIPv4 expr.CtKey = 19

// original reads a connection's original direction: the library leaves the
// direction out, without which the kernel refuses addresses and ports.
type original struct{ *expr.Ct }

// marshal encodes an expression of a rule.
func marshal(family uint8, e expr.Any) ([]byte, error) {
	o, ok := e.(original)
	if !ok {
		return expr.Marshal(family, e)
	}
	var b buffer
	b.str(unix.NFTA_EXPR_NAME, "ct")
	end := b.nest(unix.NFTA_EXPR_DATA)
	b.u32(unix.NFTA_CT_DREG, o.Register)
	b.u32(unix.NFTA_CT_KEY, uint32(o.Key))
	b.u8(unix.NFTA_CT_DIRECTION, 0) // IP_CT_DIR_ORIGINAL
	end()
	return b, nil
}

// setDport mends the checksum, unless there is none: from 0 the kernel would
// make a wrong one.
func setDport(e ruleset.SetDport) ([]expr.Any, error) {
	keys, err := load(e.Key)
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	var sum []expr.Any
	if e.Unsummed {
		sum = join(th(6, 2, 0), eq([]byte{0, 0}))
	} else {
		write.CsumType, write.CsumOffset = payloadCsumInet, 6
	}
	if err != nil {
		return nil, err
	}
	again, err := learn(ruleset.Learn{Set: e.Map, Key: e.Key, Data: ruleset.Fields{ruleset.FieldDport}})
	return join(l4(ruleset.UDP), sum, keys, []expr.Any{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: e.Map}, write}, again), err
}
