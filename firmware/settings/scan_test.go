package settings

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// standard is the tree as encoding/json writes it.
func standard(t testing.TB, s *Settings) []byte {
	c := s.Clone()
	var walk func(*Node, reflect.Value)
	walk = func(n *Node, v reflect.Value) {
		if n.Kind == List && v.IsNil() {
			v.Set(reflect.MakeSlice(n.typ, 0, 0))
		}
		if n.Kind == Area {
			for _, ch := range n.Children {
				walk(ch, v.Field(ch.field))
			}
		}
	}
	walk(root(), reflect.ValueOf(c).Elem())
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is written by hand is what encoding/json writes.
func TestCompactIsStandard(t *testing.T) {
	odd := full(t)
	odd.System.Hostname = "a<b>&\"\\\u2028\x01é\xff"
	odd.Firewall.Forwards = map[string]Forward{
		"none": {}, "six": {Protocol: "<", To: netip.MustParseAddr("fe80::1%eth0"), ToPort: -1}, "\x00": {Enabled: true, Port: 1 << 30}}
	for name, s := range map[string]*Settings{"default": Default(), "full": full(t), "odd": odd, "zero": {}} {
		if got, want := s.Compact(), standard(t, s); !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

// Equal means what the text says.
func TestEqualIsText(t *testing.T) {
	base := full(t)
	for line := range strings.Lines(text(Lines(base))) {
		words, err := Split(line)
		if err != nil || len(words) < 2 {
			t.Fatal(line, err)
		}
		c := base.Clone()
		if Delete(c, words[1:len(words)-1]) != nil {
			continue
		}
		if got, want := c.Equal(base), bytes.Equal(c.Compact(), base.Compact()); got != want {
			t.Errorf("without %q: equal %v, want %v", line, got, want)
		}
	}
	if !base.Equal(base.Clone()) {
		t.Error("a clone differs")
	}
}

// The scanner takes what encoding/json takes, and no more.
func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,-0,"x\u00e9",true,false,null,{}]}`, `[]`, `{"a":1,}`, `[1 2]`, `01`, `"\q"`, `"a` + "\n" + `"`, `{"a"}`, ` {"x" : [ ] } `, `tru`, `-`, "\"\xff\"", `[,1]`, `{"a":1 "b":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		s := scanner{data: doc}
		s.skip(s.next(), 0)
		ok := !s.bad && s.peek() == 0 && s.pos == len(s.data)
		if want := json.Valid(doc); ok != want {
			t.Fatalf("%q: %v, want %v", doc, ok, want)
		}
	})
}

// A forward is read the short way as it is the long way.
func FuzzForward(f *testing.F) {
	for _, s := range []string{`{"enabled":true,"protocol":"udp","port":80,"to":"192.168.1.10","to-port":8080}`, `{}`, `{"port":0}`, `{"to":"1.2.3.256"}`,
		`{"to":"01.2.3.4"}`, `{"port":"1"}`, `{"port":1,"port":2}`, `{"to":"::1"}`, `{"protocol":"x","no":1}`, ` { "port" : 65536 } `, `{"to":"1.2.3.4.5"}`, `{"port":1e2}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		quick := Forward{Enabled: true, Protocol: TCP}
		s := scanner{data: []byte(doc)}
		if !s.forward(&quick) {
			return
		}
		d := &decoder{scanner: scanner{data: []byte(doc)}}
		n := root().child("firewall").child("forward").Entry
		v := n.fresh()
		d.value(n, v, "")
		if slow := v.Interface().(Forward); d.problems != nil || d.bad || slow != quick || d.pos != s.pos {
			t.Fatalf("%q: %+v, want %+v; problems %v", doc, quick, slow, d.problems)
		}
	})
}

// A patch changes what it names and nothing else.
func TestPatched(t *testing.T) {
	base := Default()
	for _, line := range []string{"firewall forward a port 80 to 192.168.1.10", "firewall forward b port 81 to 192.168.1.11 protocol udp", "dns upstreams 9.9.9.9 1.1.1.1"} {
		words, _ := Split(line)
		if err := Set(base, words); err != nil {
			t.Fatal(err)
		}
	}
	before := base.Clone()
	got, problems := base.Patched([]byte(`{"dns":{"upstreams":["8.8.8.8"]},"firewall":{"wan-ping":true,"forward":{"a":null,"b":{"port":82,"to":"192.168.1.12"},"c":{"port":83,"to":"192.168.1.13"}}}}`))
	if problems != nil {
		t.Fatal(problems)
	}
	want := before.Clone()
	want.DNS.Upstreams = []netip.Addr{netip.MustParseAddr("8.8.8.8")}
	want.Firewall.WANPing = true
	want.Firewall.Forwards = map[string]Forward{
		"b": {Enabled: true, Protocol: TCP, Port: 82, To: netip.MustParseAddr("192.168.1.12")},
		"c": {Enabled: true, Protocol: TCP, Port: 83, To: netip.MustParseAddr("192.168.1.13")},
	}
	if !got.Equal(want) || !base.Equal(before) {
		t.Errorf("got\n%s\nbase\n%s", got.Compact(), base.Compact())
	}
	for _, bad := range []string{`{"dns":`, `{"nothing":1}`, `{"firewall":{"forward":{"a":{"port":"x"}}}}`, `[]`} {
		if _, problems := base.Patched([]byte(bad)); problems == nil {
			t.Errorf("%s is no problem", bad)
		}
	}
}

// A patch makes one tree of another, whichever they are.
func TestPatchLeads(t *testing.T) {
	empty := Default()
	empty.DNS.Upstreams, empty.System.NTP.Servers = nil, nil
	trees := []*Settings{Default(), full(t), empty, many(3), many(2)}
	for i, a := range trees {
		for j, b := range trees {
			patch := b.Patch(a)
			got, problems := a.Patched(patch)
			if problems != nil || !got.Equal(b) {
				t.Errorf("%d to %d: %s: problems %v, differs: %v", i, j, patch, problems, Compare(b, got))
			}
			if i == j && string(patch) != "{}" {
				t.Errorf("%d: a patch without a change: %s", i, patch)
			}
		}
	}
}

// What is quickly told of many forwards is what is told of one.
func TestDevices(t *testing.T) {
	for _, p := range []string{"192.168.1.1/24", "10.0.0.5/29", "10.0.0.4/31", "10.0.0.4/32", "10.0.0.0/30", "0.0.0.1/0", "255.255.255.254/28"} {
		lan := netip.MustParsePrefix(p)
		first := number(lan.Masked().Addr()) - 3
		for i := range uint32(300) {
			n := first + i
			a := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
			if got, want := devices(lan).has(a), usable(a, lan) && a != lan.Addr(); got != want {
				t.Errorf("%s in %s: %v, want %v", a, lan, got, want)
			}
		}
	}
	if devices(netip.Prefix{}).has(netip.AddrFrom4([4]byte{})) {
		t.Error("a device without a LAN")
	}
}
