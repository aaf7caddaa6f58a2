package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Numbers of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	msgNewFlowtable    = 22
	msgGetFlowtable    = 23
	msgDelFlowtable    = 24
	msgDestroyElements = 30 // NFT_MSG_DESTROYSETELEM: no error when one is missing

	flowtableFlagCounter = 2

	dataVerdict = 0xffffff00 // NFT_DATA_VERDICT, the data type of a verdict map
)

// A chunk of elements goes into one message: the length of a netlink attribute
// has 16 bits and wraps without an error.
const (
	chunkElements = 1000
	chunkBytes    = 60000
)

// buffer builds netlink attributes. Lengths and types are in host order,
// nf_tables wants the values big endian.
type buffer []byte

func (b *buffer) attr(typ uint16, data []byte) {
	*b = binary.NativeEndian.AppendUint16(*b, uint16(4+len(data)))
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	*b = append(*b, data...)
	b.pad()
}

func (b *buffer) pad() {
	for len(*b)&3 != 0 {
		*b = append(*b, 0)
	}
}

func (b *buffer) str(typ uint16, s string) { b.attr(typ, append([]byte(s), 0)) }
func (b *buffer) u8(typ uint16, v uint8)   { b.attr(typ, []byte{v}) }
func (b *buffer) u16(typ uint16, v uint16) { b.attr(typ, binary.BigEndian.AppendUint16(nil, v)) }
func (b *buffer) u32(typ uint16, v uint32) { b.attr(typ, binary.BigEndian.AppendUint32(nil, v)) }
func (b *buffer) u64(typ uint16, v uint64) { b.attr(typ, binary.BigEndian.AppendUint64(nil, v)) }

// nest opens a nested attribute; call what it returns to close it.
func (b *buffer) nest(typ uint16) func() {
	start := b.open(typ | unix.NLA_F_NESTED)
	return func() { b.close(start) }
}

// open is nest without the function, for what there is much of; close takes
// what it returns.
func (b *buffer) open(typ uint16) (start int) {
	start = len(*b)
	*b = binary.NativeEndian.AppendUint16(*b, 0)
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	return start
}

func (b *buffer) close(start int) {
	binary.NativeEndian.PutUint16((*b)[start:], uint16(len(*b)-start))
}

// header is the nfgenmsg of a message about our table.
func header(family uint8) buffer { return buffer{family, 0, 0, 0} }

// batch is one transaction. what tells which object a message is about.
type batch struct {
	family uint8 // of the tables that the next messages are about
	msgs   []netlink.Message
	what   []string
}

func (b *batch) add(what string, typ int, flags netlink.HeaderFlags, data buffer) {
	b.msgs = append(b.msgs, netlink.Message{
		Header: netlink.Header{Type: nftType(typ), Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   data,
	})
	b.what = append(b.what, what)
}

func nftType(typ int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ)
}

func (b *batch) table(typ int) {
	h := header(b.family)
	h.str(unix.NFTA_TABLE_NAME, ruleset.Name)
	b.add("table "+familyName(b.family)+" "+ruleset.Name, typ, create(typ), h)
}

func familyName(f uint8) string {
	if f == unix.NFPROTO_IPV4 {
		return "ip"
	}
	return "inet"
}

// create is the flag that messages which make things carry.
func create(typ int) netlink.HeaderFlags {
	switch typ {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_NEWOBJ, msgNewFlowtable:
		return netlink.Create
	case unix.NFT_MSG_NEWRULE:
		return netlink.Create | unix.NLM_F_APPEND
	}
	return 0
}

func (b *batch) newChain(c ruleset.Chain) {
	h := header(b.family)
	h.str(unix.NFTA_CHAIN_TABLE, ruleset.Name)
	h.str(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Base() {
		end := h.nest(unix.NFTA_CHAIN_HOOK)
		h.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Hook))
		h.u32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))
		end()
		policy := uint32(1) // NF_ACCEPT
		if c.Drop {
			policy = 0
		}
		h.u32(unix.NFTA_CHAIN_POLICY, policy)
		h.str(unix.NFTA_CHAIN_TYPE, c.Type)
	}
	b.add("chain "+c.Name, unix.NFT_MSG_NEWCHAIN, create(unix.NFT_MSG_NEWCHAIN), h)
}

func (b *batch) delChain(name string) {
	h := header(b.family)
	h.str(unix.NFTA_CHAIN_TABLE, ruleset.Name)
	h.str(unix.NFTA_CHAIN_NAME, name)
	b.add("removal of chain "+name, unix.NFT_MSG_DELCHAIN, 0, h)
}

// flushChain deletes all rules of a chain.
func (b *batch) flushChain(name string) {
	h := header(b.family)
	h.str(unix.NFTA_RULE_TABLE, ruleset.Name)
	h.str(unix.NFTA_RULE_CHAIN, name)
	b.add("flush of chain "+name, unix.NFT_MSG_DELRULE, 0, h)
}

func (b *batch) newRule(chain string, n int, r ruleset.Rule) error {
	what := fmt.Sprintf("chain %s rule %d (%s)", chain, n, r.Text())
	exprs, err := compile(b.family, r)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	h := header(b.family)
	h.str(unix.NFTA_RULE_TABLE, ruleset.Name)
	h.str(unix.NFTA_RULE_CHAIN, chain)
	end := h.nest(unix.NFTA_RULE_EXPRESSIONS)
	start := len(h)
	for _, e := range exprs {
		d, err := marshal(b.family, e)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		h.attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, d)
	}
	canon := canonical(h[start:])
	end()
	h.attr(unix.NFTA_RULE_USERDATA, ruleUserData(r, canon))
	b.add(what, unix.NFT_MSG_NEWRULE, create(unix.NFT_MSG_NEWRULE), h)
	return nil
}

// Types of the TLVs in user data: nft's own for comments, and ours.
const (
	udComment      = 0 // of rules and elements
	udKeyByteOrder = 0 // of sets
	udDigests      = 0x63
)

func comment(why string) []byte {
	c := ruleset.Comment(why)
	if c == "" {
		return nil
	}
	return append(append([]byte{udComment, byte(len(c) + 1)}, c...), 0)
}

// ruleUserData keeps the rule's comment and digests of its text and of its
// compiled form: so Observe knows the rule again, and sees when it was changed.
func ruleUserData(r ruleset.Rule, canon uint64) []byte {
	d := append(comment(r.Why), udDigests, 16)
	d = binary.BigEndian.AppendUint64(d, r.Digest())
	return binary.BigEndian.AppendUint64(d, canon)
}

func (b *batch) newHelper(o ruleset.Helper) {
	h := header(b.family)
	h.str(unix.NFTA_OBJ_TABLE, ruleset.Name)
	h.str(unix.NFTA_OBJ_NAME, o.Name)
	h.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_CT_HELPER)
	end := h.nest(unix.NFTA_OBJ_DATA)
	h.str(unix.NFTA_CT_HELPER_NAME, o.Type)
	h.u16(unix.NFTA_CT_HELPER_L3PROTO, unix.NFPROTO_IPV4)
	h.u8(unix.NFTA_CT_HELPER_L4PROTO, o.Protocol)
	end()
	b.add("ct helper "+o.Name, unix.NFT_MSG_NEWOBJ, create(unix.NFT_MSG_NEWOBJ), h)
}

func (b *batch) delObject(typ uint32, name string) {
	h := header(b.family)
	h.str(unix.NFTA_OBJ_TABLE, ruleset.Name)
	h.str(unix.NFTA_OBJ_NAME, name)
	h.u32(unix.NFTA_OBJ_TYPE, typ)
	b.add("removal of object "+name, unix.NFT_MSG_DELOBJ, 0, h)
}

// flowtable makes a flowtable, adds devices to it, or (msgDelFlowtable)
// removes these devices from it.
func (b *batch) flowtable(typ int, f ruleset.Flowtable) {
	h := header(b.family)
	h.str(unix.NFTA_TABLE_NAME, ruleset.Name) // NFTA_FLOWTABLE_TABLE
	h.str(2, f.Name)
	end := h.nest(3)                 // NFTA_FLOWTABLE_HOOK
	h.u32(1, unix.NF_NETDEV_INGRESS) // NFTA_FLOWTABLE_HOOK_NUM
	h.u32(2, 0)                      // NFTA_FLOWTABLE_HOOK_PRIORITY: filter
	if len(f.Devices) > 0 {
		endDevs := h.nest(3)
		for _, d := range f.Devices {
			h.str(1, d)
		}
		endDevs()
	}
	end()
	what := fmt.Sprintf("flowtable %s, devices %v", f.Name, f.Devices)
	if typ == msgNewFlowtable {
		flags := uint32(0)
		if f.Counter {
			flags |= flowtableFlagCounter
		}
		h.u32(7, flags)
	} else {
		what = "removal of " + what
	}
	b.add(what, typ, create(typ), h)
}

func (b *batch) delFlowtable(name string) {
	h := header(b.family)
	h.str(unix.NFTA_TABLE_NAME, ruleset.Name)
	h.str(2, name)
	b.add("removal of flowtable "+name, msgDelFlowtable, 0, h)
}
