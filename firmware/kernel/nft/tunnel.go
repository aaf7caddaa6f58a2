package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Numbers of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	payloadCsumInet = 1 // NFT_PAYLOAD_CSUM_INET
	payloadL4Csum   = 1 // NFT_PAYLOAD_L4CSUM_PSEUDOHDR
	dynsetAdd       = 0 // NFT_DYNSET_OP_ADD
	dynsetUpdate    = 1 // NFT_DYNSET_OP_UPDATE
	dynsetDelete    = 2 // NFT_DYNSET_OP_DELETE
)

// icmpHeader is what stands before the packet that an ICMP error quotes.
const icmpHeader = 8

// compileTunnel translates what only table ip has.
func compileTunnel(e ruleset.Expr) ([]expr.Any, error) {
	switch e := e.(type) {
	case ruleset.Notrack:
		return []expr.Any{&expr.Notrack{}}, nil
	case ruleset.SetSource:
		return join(immediate(e.Addr), writeAddress(12)), nil
	case ruleset.SetDest:
		return join(immediate(e.Addr), writeAddress(16)), nil
	case ruleset.SetDestFrom:
		keys, err := load(e.Key)
		return join(keys, []expr.Any{&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: e.Map}}, writeAddress(16)), err
	case ruleset.SetDestNexthop:
		return join([]expr.Any{&expr.Rt{Register: 1, Key: expr.RtNexthop4}}, writeAddress(16)), nil
	case ruleset.Dup:
		return join(immediate(e.To), []expr.Any{&expr.Dup{RegAddr: 1}}), nil
	case ruleset.Learn:
		return learn(e)
	case ruleset.SetDport:
		return setDport(e)
	case ruleset.Meter:
		return inEach(e.Set, dynsetUpdate, e.Key, &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(e.Rate), Unit: expr.LimitTimeSecond, Burst: uint32(e.Burst)})
	case ruleset.CountOver:
		return inEach(e.Set, dynsetAdd, e.Key, &expr.Connlimit{Count: uint32(e.Most), Flags: expr.NFT_CONNLIMIT_F_INV})
	case ruleset.Spend:
		return inEach(e.Set, dynsetUpdate, e.Key, &expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeHour, Over: true, Burst: uint32(e.Packets)})
	case ruleset.Forget:
		return inEach(e.Set, dynsetDelete, e.Key)
	case ruleset.Raw:
		o, n, ok := headerField(e.Field)
		if !ok {
			return nil, fmt.Errorf("no translation for field %d", e.Field)
		}
		v := binary.BigEndian.AppendUint32(nil, e.Value)
		return join(th(o, n, 0), eq(v[4-n:])), nil
	case ruleset.ICMPType:
		return join(ipv4(), l4(ruleset.ICMP), th(0, 1, 0), eq([]byte{byte(e)})), nil
	case ruleset.SetQuotedSource:
		keys, err := load(e.Key)
		o, n, _ := headerField(ruleset.FieldQuotedSource)
		// The header that is quoted has a checksum of its own. The ICMP message's
		// covers both, and their changes cancel out.
		return append(keys, &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: e.Map},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader,
				Offset: o, Len: n, CsumType: payloadCsumInet, CsumOffset: icmpHeader + 10}), err
	case ruleset.Log:
		return []expr.Any{&expr.Log{Group: e.Group, Snaplen: uint32(e.Bytes), Data: []byte(e.Prefix),
			Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_PREFIX}}, nil
	}
	return nil, fmt.Errorf("no translation for %T", e)
}

func immediate(a netip.Addr) []expr.Any {
	b := a.Unmap().As4()
	return []expr.Any{&expr.Immediate{Register: 1, Data: b[:]}}
}

// writeAddress writes the first register into the IPv4 header and mends the
// checksums of the header and of TCP or UDP.
func writeAddress(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader,
		Offset: offset, Len: 4, CsumType: payloadCsumInet, CsumOffset: 10, CsumFlags: payloadL4Csum}}
}

// headerField is the offset and length of a field in the transport header.
func headerField(f ruleset.Field) (offset, n uint32, ok bool) {
	switch f {
	case ruleset.FieldSPI:
		return 0, 4, true
	case ruleset.FieldCookieHigh:
		return 8, 4, true
	case ruleset.FieldCookieLow:
		return 12, 4, true
	case ruleset.FieldNextPayload:
		return 24, 1, true
	case ruleset.FieldExchange:
		return 26, 1, true
	case ruleset.FieldQuotedProtocol:
		return icmpHeader + 9, 1, true
	case ruleset.FieldQuotedSource:
		return icmpHeader + 12, 4, true
	case ruleset.FieldQuotedDest:
		return icmpHeader + 16, 4, true
	case ruleset.FieldQuotedSPI, ruleset.FieldQuotedPorts:
		return icmpHeader + 20, 4, true
	case ruleset.FieldQuotedCookieHigh:
		return icmpHeader + 28, 4, true
	case ruleset.FieldQuotedCookieLow:
		return icmpHeader + 32, 4, true
	case ruleset.FieldTunnel:
		return udpHeader + 2, 2, true
	case ruleset.FieldTunnelLong:
		return udpHeader + 4, 2, true
	}
	return 0, 0, false
}

// learn keeps the data in the second register of 128 bits: keys have up to
// three fields.
func learn(e ruleset.Learn) ([]expr.Any, error) {
	keys, err := load(e.Key)
	if err != nil {
		return nil, err
	}
	d := &expr.Dynset{SrcRegKey: 1, SetName: e.Set, Operation: dynsetUpdate}
	if e.Counter {
		d.Exprs = []expr.Any{&expr.Counter{}}
	}
	if len(e.Data) > 0 {
		data, err := loadAt(e.Data, 4)
		if err != nil {
			return nil, err
		}
		keys, d.SrcRegData = append(keys, data...), register(4)
	}
	return append(keys, d), nil
}

// inEach does op with the key, which keeps what e counts.
func inEach(set string, op uint32, key ruleset.Fields, e ...expr.Any) ([]expr.Any, error) {
	keys, err := load(key)
	return append(keys, &expr.Dynset{SrcRegKey: 1, SetName: set, Operation: op, Exprs: e}), err
}
