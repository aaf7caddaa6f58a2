package settings

import (
	"fmt"
	"net/netip"
	"testing"
)

func many(n int) *Settings {
	s := Default()
	s.Firewall.Forwards = map[string]Forward{}
	for i := range n {
		s.Firewall.Forwards[fmt.Sprint("f", i)] = Forward{Enabled: true, Protocol: TCP, Port: 20000 + i, To: netip.AddrFrom4([4]byte{192, 168, 1, byte(100 + i%100)})}
	}
	return s
}

func BenchmarkSettings(b *testing.B) {
	for _, n := range []int{0, 1000, 10000} {
		s := many(n)
		o := s.Clone()
		raw := s.Compact()
		for name, f := range map[string]func(){
			"parse": func() { Parse(raw) }, "compact": func() { s.Compact() }, "validate": func() { s.Validate() },
			"clone": func() { s.Clone() }, "equal": func() { s.Equal(o) },
		} {
			b.Run(fmt.Sprint(name, "-", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}
