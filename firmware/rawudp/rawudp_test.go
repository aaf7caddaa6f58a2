package rawudp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

var (
	src = netip.MustParseAddrPort("192.0.2.1:67")
	dst = netip.MustParseAddrPort("192.0.2.77:68")
)

func TestMarshalParse(t *testing.T) {
	for _, payload := range []string{"", "a", "ab", "some payload of odd length"} {
		b := Marshal(src, dst, []byte(payload))
		// Ethernet pads short frames; the padding is not payload.
		p, err := Parse(append(b, make([]byte, 18)...))
		if err != nil {
			t.Fatal(err)
		}
		if p.Src != src || p.Dst != dst || string(p.Payload) != payload {
			t.Errorf("got %v %v %q, want %v %v %q", p.Src, p.Dst, p.Payload, src, dst, payload)
		}
		u := b[ipHeader:]
		if got := fold(sum(sum(protoUDP+uint32(len(u)), b[12:20]), u)); got != 0xffff {
			t.Errorf("UDP checksum of %q: sums to %#x, want 0xffff", payload, got)
		}
	}
}

func TestParseRejects(t *testing.T) {
	fix := func(b []byte) []byte {
		b[10], b[11] = 0, 0
		c := ^fold(sum(0, b[:ipHeader]))
		b[10], b[11] = byte(c>>8), byte(c)
		return b
	}
	cases := map[string]func(b []byte) []byte{
		"empty":            func(b []byte) []byte { return nil },
		"IPv6":             func(b []byte) []byte { b[0] = 0x65; return fix(b) },
		"short header":     func(b []byte) []byte { b[0] = 0x44; return fix(b) },
		"long header":      func(b []byte) []byte { b[0] = 0x4f; return b },
		"cut":              func(b []byte) []byte { return b[:len(b)-1] },
		"TCP":              func(b []byte) []byte { b[9] = 6; return fix(b) },
		"fragment":         func(b []byte) []byte { b[6] = 0x20; return fix(b) },
		"offset":           func(b []byte) []byte { b[7] = 1; return fix(b) },
		"header sum":       func(b []byte) []byte { b[10]++; return b },
		"UDP longer":       func(b []byte) []byte { b[25]++; return b },
		"UDP length small": func(b []byte) []byte { b[24], b[25] = 0, 7; return b },
	}
	for name, change := range cases {
		if _, err := Parse(change(Marshal(src, dst, []byte("payload")))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

func TestFilter(t *testing.T) {
	vm, err := bpf.NewVM(udpPort(68))
	if err != nil {
		t.Fatal(err)
	}
	whole := Marshal(src, dst, []byte("payload"))
	other := Marshal(src, netip.AddrPortFrom(dst.Addr(), 69), []byte("payload"))
	tcp := bytes.Clone(whole)
	tcp[9] = 6
	fragment := bytes.Clone(whole)
	fragment[7] = 1
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{{"whole", whole, true}, {"other port", other, false}, {"TCP", tcp, false}, {"fragment", fragment, false}} {
		n, err := vm.Run(c.b)
		if err != nil {
			t.Fatal(err)
		}
		if (n > 0) != c.want {
			t.Errorf("%s: passes %d bytes, want passed = %v", c.name, n, c.want)
		}
	}
}

func TestARPConflict(t *testing.T) {
	own := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	other := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	addr := netip.MustParseAddr("192.0.2.77")
	reply := arpProbe(other, netip.MustParseAddr("0.0.0.0"))
	reply[7] = 2
	copy(reply[14:], addr.AsSlice())
	for _, c := range []struct {
		name string
		b    []byte
		want net.HardwareAddr
	}{
		{"reply", reply, other},
		{"probe of another", arpProbe(other, addr), other},
		{"own probe", arpProbe(own, addr), nil},
		{"probe for another address", arpProbe(other, addr.Next()), nil},
		{"cut", reply[:20], nil},
	} {
		if got := arpConflict(c.b, own, addr); !bytes.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	whole := Marshal(src, dst, []byte("payload"))
	f.Add(whole)
	for i := range whole { // cut off anywhere, and with a length that is a lie
		f.Add(whole[:i:i])
		b := bytes.Clone(whole)
		b[i] = 0xff
		f.Add(b)
		b = bytes.Clone(whole)
		b[i] = 0
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(Marshal(p.Src, p.Dst, p.Payload))
		if err != nil || again.Src != p.Src || again.Dst != p.Dst || !bytes.Equal(again.Payload, p.Payload) {
			t.Fatalf("%v, %v does not survive a round trip: %v, %v", p, err, again, err)
		}
	})
}
