package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// Observe reads our table, nil when there is none. What it gives equals what
// Apply wrote (by ruleset.Diff) unless somebody changed it since; don't write
// to it. The content of learned sets is not read.
func (c *Conn) Observe() (*ruleset.Table, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	nl, err := c.socket()
	if err != nil {
		return nil, err
	}
	t, err := c.observe(nl)
	if err != nil {
		c.drop()
		c.seen.forget()
	}
	return t, err
}

func (c *Conn) observe(nl *netlink.Conn) (*ruleset.Table, error) {
	// The dumps of one observation must be of one generation.
	for try := range 10 {
		before, err := generation(nl)
		if err != nil {
			return nil, fmt.Errorf("nft: generation: %w", err)
		}
		if c.seen.current(before) {
			same, err := sameDevices(nl, c.seen.table)
			if err == nil && same {
				return c.seen.table, nil
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return nil, fmt.Errorf("nft: %w", err)
			}
		}
		t, err := observe(&source{nl, unix.NFPROTO_INET})
		if err == nil && t != nil {
			t.IP, err = observe(&source{nl, unix.NFPROTO_IPV4})
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("nft: %w", err)
		}
		after, err2 := generation(nl)
		if err == nil && err2 == nil && before == after {
			if try < unsettled && c.seen.written != nil && !ruleset.Equal(c.seen.written, t) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return c.seen.read(t, after), nil
		}
	}
	return nil, errors.New("nft: the ruleset changes faster than it can be read")
}

// unsettled is how often a table is read again that is not what was written: a
// dump leaves elements out while the kernel makes a set's hash table larger,
// which it does for a moment after many were added.
const unsettled = 3

// sameDevices tells whether the flowtables have the devices that t says. A
// device that goes leaves them, which makes no new generation.
func sameDevices(nl *netlink.Conn, t *ruleset.Table) (bool, error) {
	if t == nil || len(t.Flowtables) == 0 {
		return true, nil
	}
	now := &ruleset.Table{}
	if err := observeFlowtables(&source{nl, unix.NFPROTO_INET}, now); err != nil {
		return false, err
	}
	return slices.EqualFunc(now.Flowtables, t.Flowtables, func(a, b ruleset.Flowtable) bool {
		return a.Name == b.Name && slices.Equal(a.Devices, slices.Sorted(slices.Values(b.Devices)))
	}), nil
}

func generation(nl *netlink.Conn) (uint32, error) {
	msgs, err := nl.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   header(unix.AF_UNSPEC),
	})
	if err != nil || len(msgs) == 0 {
		return 0, err
	}
	return u32(find(body(msgs[0]), unix.NFTA_GEN_ID)), nil
}

// body is the attributes of a message after its nfgenmsg.
func body(m netlink.Message) []attribute {
	if len(m.Data) < 4 {
		return nil
	}
	list, _ := attributes(m.Data[4:])
	return list
}

// ours dumps the objects of a kind that are in our table; typ 1 is the table's
// name in all of them.
func ours(nl *source, typ int) ([][]attribute, error) {
	var b buffer
	if typ != unix.NFT_MSG_GETTABLE && typ != unix.NFT_MSG_GETCHAIN {
		b.str(1, ruleset.Name)
	}
	msgs, err := dump(nl.Conn, typ, nl.family, b)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // no such table
	}
	if err != nil {
		return nil, fmt.Errorf("dump %d: %w", typ, err)
	}
	var out [][]attribute
	for _, m := range msgs {
		if l := body(m); len(m.Data) > 0 && m.Data[0] == nl.family && cstring(find(l, 1)) == ruleset.Name {
			out = append(out, l)
		}
	}
	return out, nil
}

// source is the tables of one family.
type source struct {
	*netlink.Conn
	family uint8
}

func observe(nl *source) (*ruleset.Table, error) {
	tables, err := ours(nl, unix.NFT_MSG_GETTABLE)
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	t := &ruleset.Table{}
	for _, step := range []func(*source, *ruleset.Table) error{observeObjects, observeSets, observeFlowtables, observeChains, observeRules} {
		if err := step(nl, t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func observeObjects(nl *source, t *ruleset.Table) error {
	list, err := ours(nl, unix.NFT_MSG_GETOBJ)
	for _, l := range list {
		name, typ := cstring(find(l, unix.NFTA_OBJ_NAME)), u32(find(l, unix.NFTA_OBJ_TYPE))
		d, _ := attributes(find(l, unix.NFTA_OBJ_DATA))
		l3, l4 := find(d, unix.NFTA_CT_HELPER_L3PROTO), find(d, unix.NFTA_CT_HELPER_L4PROTO)
		if typ != unix.NFT_OBJECT_CT_HELPER || len(l3) < 2 || binary.BigEndian.Uint16(l3) != unix.NFPROTO_IPV4 || len(l4) < 1 {
			t.Foreign = append(t.Foreign, ruleset.Object{Type: typ, Name: name})
			continue
		}
		t.Helpers = append(t.Helpers, ruleset.Helper{Name: name, Type: cstring(find(d, unix.NFTA_CT_HELPER_NAME)), Protocol: l4[0]})
	}
	return err
}

func observeFlowtables(nl *source, t *ruleset.Table) error {
	list, err := ours(nl, msgGetFlowtable)
	for _, l := range list {
		f := ruleset.Flowtable{Name: cstring(find(l, 2)), Counter: u32(find(l, 7))&flowtableFlagCounter != 0}
		hook, _ := attributes(find(l, 3))
		devices, _ := attributes(find(hook, 3))
		for _, d := range devices {
			f.Devices = append(f.Devices, cstring(d.data))
		}
		slices.Sort(f.Devices)
		t.Flowtables = append(t.Flowtables, f)
	}
	return err
}

func observeChains(nl *source, t *ruleset.Table) error {
	list, err := ours(nl, unix.NFT_MSG_GETCHAIN)
	for _, l := range list {
		c := ruleset.Chain{Name: cstring(find(l, unix.NFTA_CHAIN_NAME))}
		if hook, ok := attributes(find(l, unix.NFTA_CHAIN_HOOK)); ok && len(hook) > 0 {
			c.Type = cstring(find(l, unix.NFTA_CHAIN_TYPE))
			c.Hook = int(u32(find(hook, unix.NFTA_HOOK_HOOKNUM)))
			c.Priority = int(int32(u32(find(hook, unix.NFTA_HOOK_PRIORITY))))
			c.Drop = u32(find(l, unix.NFTA_CHAIN_POLICY)) == 0
		}
		t.Chains = append(t.Chains, c)
	}
	return err
}

func observeRules(nl *source, t *ruleset.Table) error {
	list, err := ours(nl, unix.NFT_MSG_GETRULE)
	for _, l := range list {
		if c := t.Chain(cstring(find(l, unix.NFTA_RULE_CHAIN))); c != nil {
			c.Rules = append(c.Rules, observedRule(l))
		}
	}
	return err
}

// observedRule trusts the digest of the text only while the expressions are
// still those that were written with it.
func observedRule(l []attribute) ruleset.Rule {
	exprs := find(l, unix.NFTA_RULE_EXPRESSIONS)
	ud := find(l, unix.NFTA_RULE_USERDATA)
	why := cstring(userData(ud, udComment))
	var digest uint64
	if d := userData(ud, udDigests); len(d) == 16 && binary.BigEndian.Uint64(d[8:]) == canonical(exprs) {
		digest = binary.BigEndian.Uint64(d)
	}
	var names []string
	list, _ := attributes(exprs)
	for _, e := range list {
		parts, _ := attributes(e.data)
		names = append(names, cstring(find(parts, 1)))
	}
	text := "unknown rule (" + strings.Join(names, ", ") + ")"
	if why != "" {
		text += " comment \"" + why + "\""
	}
	return ruleset.Observed(digest, text)
}

// userData finds a TLV in user data.
func userData(b []byte, typ byte) []byte {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		n := 2 + int(b[1])
		if b[0] == typ {
			return b[2:n]
		}
		b = b[n:]
	}
	return nil
}

func observeSets(nl *source, t *ruleset.Table) error {
	list, err := ours(nl, unix.NFT_MSG_GETSET)
	if err != nil {
		return err
	}
	for _, l := range list {
		flags := u32(find(l, unix.NFTA_SET_FLAGS))
		if flags&unix.NFT_SET_ANONYMOUS != 0 {
			continue // part of a rule
		}
		s := ruleset.Set{Name: cstring(find(l, unix.NFTA_SET_NAME)), Interval: flags&unix.NFT_SET_INTERVAL != 0,
			Learned: flags&unix.NFT_SET_EVAL != 0, Key: types(u32(find(l, unix.NFTA_SET_KEY_TYPE)))}
		if flags&unix.NFT_SET_MAP != 0 {
			if d := u32(find(l, unix.NFTA_SET_DATA_TYPE)); d == dataVerdict {
				s.Verdicts = true
			} else {
				s.Data = types(d)
			}
		}
		if d := find(l, unix.NFTA_SET_TIMEOUT); len(d) == 8 {
			s.Timeout = time.Duration(binary.BigEndian.Uint64(d)) * time.Millisecond
		}
		desc, _ := attributes(find(l, unix.NFTA_SET_DESC))
		s.Size = int(u32(find(desc, unix.NFTA_SET_DESC_SIZE)))
		// A set of a shape that is never written here is somebody else's: it
		// goes as a whole, so its elements don't matter.
		readable := size(s.Key) > 0 && size(s.Key) == int(u32(find(l, unix.NFTA_SET_KEY_LEN))) && !(s.Interval && len(s.Key) != 1)
		if !s.Learned && readable {
			if s.Elements, err = observeElements(nl, s); err != nil {
				return fmt.Errorf("elements of %s: %w", s.Name, err)
			}
		}
		t.Sets = append(t.Sets, s)
	}
	return nil
}

// types is the reverse of magic; a type that is not used here gives a type
// that equals none.
func types(m uint32) []ruleset.Type {
	var out []ruleset.Type
	for ; m != 0; m >>= 6 {
		t := ruleset.Type(0)
		for _, k := range [...]ruleset.Type{ruleset.IPv4Addr, ruleset.InetProto, ruleset.InetService, ruleset.IfName, ruleset.Mark, ruleset.EtherAddr} {
			if typeMagic(k) == m&0x3f {
				t = k
			}
		}
		out = append(out, t)
	}
	slices.Reverse(out)
	return out
}

func observeElements(nl *source, s ruleset.Set) ([]ruleset.Element, error) {
	var b buffer
	b.str(unix.NFTA_SET_ELEM_LIST_TABLE, ruleset.Name)
	b.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	msgs, err := dump(nl.Conn, unix.NFT_MSG_GETSETELEM, nl.family, b)
	if err != nil {
		return nil, err
	}
	var elements, ends []ruleset.Element
	for _, m := range msgs {
		list, _ := attributes(find(body(m), unix.NFTA_SET_ELEM_LIST_ELEMENTS))
		for _, l := range list {
			e, end := decodeElement(s, l.data)
			if end {
				ends = append(ends, e)
			} else {
				elements = append(elements, e)
			}
		}
	}
	s.Elements = elements
	s.Sort()
	if s.Interval {
		closeRanges(s, ends)
	}
	return s.Elements, nil
}

func decodeElement(s ruleset.Set, data []byte) (e ruleset.Element, end bool) {
	l, _ := attributes(data)
	e.Key = decodeValue(s.Key, find(l, unix.NFTA_SET_ELEM_KEY))
	if d, _ := attributes(find(l, unix.NFTA_SET_ELEM_DATA)); s.Verdicts {
		v, _ := attributes(find(d, unix.NFTA_DATA_VERDICT))
		e.Verdict = decodeVerdict(u32(find(v, unix.NFTA_VERDICT_CODE)), cstring(find(v, unix.NFTA_VERDICT_CHAIN)))
	} else if len(s.Data) > 0 {
		e.Data = decodeValue(s.Data, find(l, unix.NFTA_SET_ELEM_DATA))
	}
	if ud := find(l, unix.NFTA_SET_ELEM_USERDATA); ud != nil {
		e.Why = cstring(userData(ud, udComment))
	}
	return e, u32(find(l, unix.NFTA_SET_ELEM_FLAGS))&unix.NFT_SET_ELEM_INTERVAL_END != 0
}

func decodeValue(types []ruleset.Type, nested []byte) ruleset.Key {
	l, _ := attributes(nested)
	v := bytes.Clone(find(l, unix.NFTA_DATA_VALUE))
	for len(v)&3 != 0 {
		v = append(v, 0)
	}
	return ruleset.Key(hostOrder(types, v))
}

func decodeVerdict(code uint32, chain string) ruleset.Verdict {
	k := ruleset.Drop
	switch expr.VerdictKind(int32(code)) {
	case expr.VerdictAccept:
		k = ruleset.Accept
	case expr.VerdictReturn:
		k = ruleset.Return
	case expr.VerdictJump:
		k = ruleset.Jump
	case expr.VerdictGoto:
		k = ruleset.Goto
	}
	return ruleset.Verdict{Kind: k, Chain: chain}
}

// closeRanges gives every range its last key: the one before the next end.
func closeRanges(s ruleset.Set, ends []ruleset.Element) {
	sort.Slice(ends, func(i, j int) bool { return ends[i].Key < ends[j].Key })
	n := s.Key[0].Size()
	last := ruleset.Key(strings.Repeat("\xff", n) + strings.Repeat("\x00", s.Key[0].Width()-n))
	for i := range s.Elements {
		e := &s.Elements[i]
		for len(ends) > 0 && ends[0].Key <= e.Key {
			ends = ends[1:]
		}
		e.End = last
		if len(ends) > 0 {
			e.End = predecessor(ends[0].Key, n)
		}
	}
}
