package conntrack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// nest makes one attribute.
func nest(typ uint16, data ...[]byte) []byte {
	b := []byte{0, 0, 0, 0}
	for _, d := range data {
		b = append(b, d...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	for len(b)&3 != 0 {
		b = append(b, 0)
	}
	return b
}

// sample is a GRE entry as the kernel dumps it.
func sample() []byte {
	tuple := func(typ uint16, src, dst byte) []byte {
		return nest(typ|0x8000,
			nest(1|0x8000, nest(1, []byte{192, 168, 1, src}), nest(2, []byte{198, 51, 100, dst})),
			nest(2|0x8000, nest(1, []byte{47}), nest(2, []byte{0x12, 0x34}), nest(3, []byte{0, 1})))
	}
	var b []byte
	for _, a := range [][]byte{tuple(1, 10, 1), tuple(2, 1, 10), nest(3, []byte{0, 0, 0x40, 0x0e}), nest(7, []byte{0, 0, 0, 60}),
		nest(9|0x8000, nest(1, make([]byte, 8)), nest(2, []byte{0, 0, 0, 0, 0, 0, 1, 0})), nest(18, []byte{0, 7}),
		nest(5|0x8000, nest(1, []byte("pptp\x00"))), nest(20|0x8000, nest(1, make([]byte, 8)))} {
		b = append(b, a...)
	}
	return b
}

func TestDecode(t *testing.T) {
	var e Entry
	if err := decode(sample(), &e); err != nil {
		t.Fatal(err)
	}
	if e.Protocol != 47 || e.Orig.SrcPort != 0x1234 || e.Orig.Src != netip.MustParseAddr("192.168.1.10") || !e.Offloaded() ||
		e.OrigBytes != 256 || e.Zone != 7 || e.Helper != "pptp" {
		t.Errorf("%+v", e)
	}
	b := sample()
	if n := testing.AllocsPerRun(100, func() { _ = decode(b, &e) }); n > 20 {
		t.Errorf("%v allocations an entry: a full table has 16,000", n)
	}
}

// FuzzDecode: whatever the bytes, an answer or an error.
func FuzzDecode(f *testing.F) {
	s := sample()
	f.Add(s)
	for i := range s { // cut off anywhere, and with a length that is a lie
		f.Add(s[:i:i])
		for _, x := range []byte{1, 0xff} {
			b := bytes.Clone(s)
			b[i] = x
			f.Add(b)
		}
	}
	for typ := range uint16(24) { // a value shorter than it has to be
		for n := range 8 {
			f.Add(nest(typ, make([]byte, n)))
		}
	}
	f.Add([]byte{4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		_ = decode(b, &e)
		_ = identity(b, e.Orig.Src.Is4())
		_, _ = messages(b, func(a []byte) error { return decode(a, &e) })
	})
}
