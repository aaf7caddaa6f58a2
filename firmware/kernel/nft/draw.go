package nft

import (
	"encoding/binary"

	"github.com/google/nftables/expr"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// compileMark is what draws a mark, and what takes it away.
func compileMark(e ruleset.Expr) ([]expr.Any, bool) {
	set := &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}
	switch e := e.(type) {
	case ruleset.Draw:
		// To nft a random number is big endian; here any bits do.
		bits := binary.BigEndian.AppendUint32(nil, uint32(e.Of-1))
		return append(join(meta(expr.MetaKeyPRANDOM, 0), mask(bits)), set), true
	case ruleset.Unmark:
		return []expr.Any{&expr.Immediate{Register: 1, Data: host(0)}, set}, true
	}
	return nil, false
}
