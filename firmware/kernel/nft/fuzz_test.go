package nft

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// FuzzDecode: whatever the kernel says, no decoder panics.
func FuzzDecode(f *testing.F) {
	b := &batch{}
	r := ruleset.R("why", ruleset.Established, ruleset.DNAT{Key: ruleset.ProtocolPort(), Map: "m"})
	if err := b.newRule("c", 1, r); err != nil {
		f.Fatal(err)
	}
	s := ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.InetProto, ruleset.InetService}, Data: []ruleset.Type{ruleset.IPv4Addr},
		Elements: []ruleset.Element{{Key: ruleset.Cat(ruleset.Protocol(6), ruleset.PortNumber(80)), Data: "\x01\x02\x03\x04", Why: "w"}}}
	b.elements(unix.NFT_MSG_NEWSETELEM, s, 0, s.Elements)
	for _, m := range b.msgs {
		data := m.Data[4:]
		f.Add(data)
		for i := range data { // cut off anywhere, and with a length that is a lie
			f.Add(data[:i:i])
			for _, x := range []byte{1, 0xff} {
				d := bytes.Clone(data)
				d[i] = x
				f.Add(d)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, _ := attributes(data)
		_ = observedRule(l).Text()
		_ = canonical(data)
		list, _ := attributes(find(l, unix.NFTA_SET_ELEM_LIST_ELEMENTS))
		for _, x := range list {
			e, _ := decodeElement(s, x.data)
			_ = s.ElementText(e)
			v := ruleset.Set{Key: []ruleset.Type{ruleset.Mark}, Verdicts: true}
			e, _ = decodeElement(v, x.data)
			_ = v.ElementText(e)
		}
	})
}

// TestObservedRule: what was written is known again; one bit more and it is not.
func TestObservedRule(t *testing.T) {
	r := ruleset.R("why", ruleset.Dport{Protocol: ruleset.TCP, Port: 22}, ruleset.Verdict{Kind: ruleset.Accept})
	b := &batch{}
	if err := b.newRule("c", 1, r); err != nil {
		t.Fatal(err)
	}
	data := b.msgs[0].Data[4:]
	l, ok := attributes(data)
	if !ok || observedRule(l).Digest() != r.Digest() {
		t.Fatal("the rule is not known again")
	}
	exprs := find(l, unix.NFTA_RULE_EXPRESSIONS)
	for i, c := range exprs {
		if c != 22 || i == 0 || exprs[i-1] != 0 {
			continue
		}
		exprs[i] = 23 // a length or the port
		if l, ok := attributes(data); ok && observedRule(l).Digest() == r.Digest() {
			t.Errorf("byte %d changed and nobody saw it", i)
		}
		exprs[i] = 22
	}
}
