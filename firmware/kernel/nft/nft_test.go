package nft_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

var (
	accept = rs.Verdict{Kind: rs.Accept}
	drop   = rs.Verdict{Kind: rs.Drop}
	lan    = netip.MustParsePrefix("192.168.1.0/24")
)

// kernel is the real thing in a namespace of its own.
type kernel struct {
	t  testing.TB
	ns *nettest.NS
}

func newKernel(t testing.TB) *kernel {
	nettest.Need(t, "nft")
	return &kernel{t, nettest.New(t)}
}

func (k *kernel) observe() (tab *rs.Table) {
	k.t.Helper()
	var err error
	k.ns.Do(func() { tab, err = nft.New(nft.Options{}).Observe() })
	if err != nil {
		k.t.Fatal(err)
	}
	return tab
}

func (k *kernel) apply(from, to *rs.Table) (err error) {
	k.ns.Do(func() { err = nft.New(nft.Options{}).Apply(from, to) })
	return err
}

// become applies what it takes, from what is observed, and checks with both
// our own eyes and nft's.
func (k *kernel) become(to *rs.Table) {
	k.t.Helper()
	if err := k.apply(k.observe(), to); err != nil {
		k.t.Fatal(err)
	}
	k.is(to)
}

// is wants the kernel to have just that. A dump may leave out elements while the
// kernel moves a set into a larger hash table, so the last of some counts.
func (k *kernel) is(want *rs.Table) {
	k.t.Helper()
	var wrong string
	for range 5 {
		if d := rs.Diff(want, k.observe()); len(d) > 0 {
			wrong = "observed something else:\n" + strings.Join(d, "\n")
		} else if d := cmp.Diff(normal(want.Text()), normal(k.list())); d != "" {
			wrong = "nft lists something else (-ours +nft's):\n" + d
		} else {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	k.t.Fatal(wrong)
}

func (k *kernel) list() string {
	return k.ns.Run(k.t, "nft -s list table inet culvert")
}

func (k *kernel) nft(script string) {
	k.t.Helper()
	if out, err := k.ns.Output(script, "nft", "-f", "-"); err != nil {
		k.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// normal joins the lines of a set's elements and sorts them: their order in
// the kernel is that of a hash.
func normal(text string) string { return nettest.NormalListing(text) }

// everything uses every kind of object, match and statement once at least.
func everything() *rs.Table {
	el := func(k rs.Key, why string) rs.Element { return rs.Element{Key: k, Why: why} }
	addr := func(s string) rs.Key { return rs.Addr(netip.MustParseAddr(s)) }
	t := &rs.Table{
		Helpers: []rs.Helper{{Name: "pptp", Type: "pptp", Protocol: rs.TCP}},
		Sets: []rs.Set{
			{Name: "protos", Key: []rs.Type{rs.InetProto}, Elements: []rs.Element{el(rs.Protocol(rs.GRE), ""), el(rs.Protocol(rs.ESP), "why")}},
			{Name: "ports", Key: []rs.Type{rs.InetProto, rs.InetService}, Elements: []rs.Element{
				el(rs.Cat(rs.Protocol(rs.TCP), rs.PortNumber(1723)), "pptp"), el(rs.Cat(rs.Protocol(rs.UDP), rs.PortNumber(65535)), "")}},
			{Name: "addrs", Key: []rs.Type{rs.IPv4Addr}, Elements: []rs.Element{el(addr("203.0.113.2"), "")}},
			{Name: "marks", Key: []rs.Type{rs.Mark}, Elements: []rs.Element{el(rs.MarkValue(0x12345678), "")}},
			{Name: "nets", Key: []rs.Type{rs.IPv4Addr}, Interval: true, Elements: []rs.Element{
				{Key: addr("0.0.0.0"), End: addr("0.255.255.255")},
				{Key: addr("10.0.0.0"), End: addr("10.255.255.255"), Why: "private"},
				{Key: addr("10.1.2.3") + "", End: "", Why: ""},
				{Key: addr("192.0.2.10"), End: addr("192.0.2.20")},
				{Key: addr("240.0.0.0"), End: addr("255.255.255.255"), Why: "to the very end"}}},
			{Name: "stations", Key: []rs.Type{rs.EtherAddr, rs.IPv4Addr}, Elements: []rs.Element{
				el(rs.Cat(rs.Ether("02:00:00:00:00:0a"), addr("192.168.1.10")), "laptop"), el(rs.Cat(rs.Ether("fe:dc:ba:98:76:54"), addr("192.168.1.11")), "")}},
			{Name: "high", Key: []rs.Type{rs.InetService}, Interval: true, Elements: []rs.Element{
				{Key: rs.PortNumber(1024), End: rs.PortNumber(2047)}, {Key: rs.PortNumber(49152), End: rs.PortNumber(65535)}}},
			{Name: "learned", Key: []rs.Type{rs.IPv4Addr, rs.IPv4Addr}, Data: []rs.Type{rs.IPv4Addr}, Learned: true, Timeout: 8 * time.Hour, Size: 8192},
			{Name: "forwards", Key: []rs.Type{rs.InetProto, rs.InetService}, Data: []rs.Type{rs.IPv4Addr, rs.InetService}, Elements: []rs.Element{
				{Key: rs.Cat(rs.Protocol(rs.TCP), rs.PortNumber(80)), Data: rs.Cat(addr("192.168.1.10"), rs.PortNumber(8080)), Why: "firewall forward web"}}},
			{Name: "dispatch", Key: []rs.Type{rs.IfName}, Verdicts: true, Elements: []rs.Element{
				{Key: rs.Interface("br-lan"), Verdict: rs.Verdict{Kind: rs.Goto, Chain: "sub"}, Why: "lan"},
				{Key: rs.Interface("eth1"), Verdict: drop}, {Key: rs.Interface("lo"), Verdict: accept}}},
		},
		Chains: []rs.Chain{
			{Name: "input", Type: "filter", Hook: rs.Input, Drop: true, Rules: []rs.Rule{
				rs.R("a b", rs.Established|rs.Related, accept), rs.R("", rs.Iif{Name: "lo"}, accept), rs.R("", rs.Invalid, rs.Counter{}, drop),
				rs.R("", rs.Source{Prefix: lan, Not: true}, drop), rs.R("", rs.Dest{Prefix: netip.MustParsePrefix("192.168.1.1/32")}, accept),
				rs.R("", rs.Echo{}, rs.Limit{Rate: 10, Burst: 20}, accept),
				rs.R("", rs.L4{Protocol: rs.TCP}, rs.TCPReset), rs.R("", rs.IPv4{}, rs.AdminProhibited),
				rs.R("", rs.Vmap{Key: rs.Fields{rs.FieldIif}, Map: "dispatch"}),
			}},
			{Name: "forward", Type: "filter", Hook: rs.Forward, Drop: true, Rules: []rs.Rule{
				rs.R("", rs.In{Key: rs.Fields{rs.FieldProtocol}, Set: "protos"}, rs.AdminProhibited),
				rs.R("", rs.In{Key: rs.ProtocolPort(), Set: "ports"}, rs.AdminProhibited),
				rs.R("", rs.In{Key: rs.Fields{rs.FieldProtocol, rs.FieldSport}, Set: "ports"}, rs.AdminProhibited),
				rs.R("mss", rs.SYN{}, rs.ClampMSS{}),
				rs.R("", rs.In{Key: rs.Fields{rs.FieldSource}, Set: "nets", Not: true}, drop),
				rs.R("", rs.Dport{Protocol: rs.TCP, Port: 1723}, rs.SetHelper{Name: "pptp"}),
				rs.R("", rs.Oif{Name: "eth1"}, rs.Verdict{Kind: rs.Jump, Chain: "sub"}),
				rs.R("", rs.UDPLength{Min: 156, Max: 156}, rs.Payload{Offset: 8, Len: 4, Value: 0x01000000}, drop),
				rs.R("", rs.UDPLength{Min: 352, Max: 1086}, rs.Payload{Offset: 8, Len: 1, Value: 0x50},
					rs.Payload{Offset: 17, Len: 3, Mask: 0xf0ffff}, drop),
				rs.R("", rs.UDPBlocks{Size: 16}, rs.New, rs.Payload{Offset: 8, Len: 4, Value: 0x04000000}, drop),
				rs.R("", rs.L4{Protocol: rs.TCP}, rs.Payload{Base: rs.Inner, Len: 3, Value: 0xe38},
					rs.Payload{Base: rs.Inner, Offset: 11, Len: 5}, rs.TCPReset),
				rs.R("", rs.Answers{}, rs.PSH{}, accept),
			}},
			{Name: "sub", Rules: []rs.Rule{rs.R(strings.Repeat("long ", 40), rs.DNATed{}, accept),
				rs.R("", rs.Sport{Protocol: rs.UDP, Port: 68}, rs.Dport{Protocol: rs.UDP, Port: 67}, rs.Verdict{Kind: rs.Return})}},
			{Name: "by_mac", Rules: []rs.Rule{rs.R("", rs.Iif{Name: "br-lan"}, rs.In{Key: rs.Fields{rs.FieldEtherSource, rs.FieldSource}, Set: "stations"}, accept),
				rs.R("", rs.In{Key: rs.Fields{rs.FieldEtherSource, rs.FieldSource}, Set: "stations", Not: true}, drop)}},
			{Name: "dstnat", Type: "nat", Hook: rs.Prerouting, Priority: -100, Rules: []rs.Rule{
				rs.R("", rs.In{Key: rs.Fields{rs.FieldDest}, Set: "addrs"}, rs.DNAT{Key: rs.ProtocolPort(), Map: "forwards"})}},
			{Name: "srcnat", Type: "nat", Hook: rs.Postrouting, Priority: 100, Rules: []rs.Rule{
				rs.R("", rs.IPv4{}, rs.Oif{Name: "eth1"}, rs.Masquerade{})}},
		},
	}
	nets := t.Set("nets")
	nets.Elements = append(nets.Elements[:2], nets.Elements[3:]...)
	for i := range t.Sets {
		t.Sets[i].Sort()
	}
	return t
}

func TestEverything(t *testing.T) {
	k := newKernel(t)
	if k.observe() != nil {
		t.Fatal("there is a table already")
	}
	k.become(everything())
	before := k.ns.Run(t, "nft -a list table inet culvert")
	k.become(everything()) // idempotent
	if after := k.ns.Run(t, "nft -a list table inet culvert"); after != before {
		t.Errorf("applying it twice changed it: %s", cmp.Diff(before, after))
	}
	// What we print is what nft reads.
	other := nettest.New(t)
	if out, err := other.Output(everything().Text(), "nft", "-f", "-"); err != nil {
		t.Errorf("nft does not read our text: %v\n%s", err, out)
	} else if d := cmp.Diff(normal(everything().Text()), normal(other.Run(t, "nft -s list table inet culvert"))); d != "" {
		t.Errorf("nft understands our text otherwise (-ours +nft's):\n%s", d)
	}
	if err := k.apply(k.observe(), nil); err != nil || k.observe() != nil {
		t.Errorf("removal: %v", err)
	}
}

func TestDropAll(t *testing.T) {
	k := newKernel(t)
	for range 2 {
		var err error
		k.ns.Do(func() { err = nft.DropAll() })
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"hook input priority filter; policy drop;", "hook forward priority filter; policy drop;", `iifname "lo" accept`} {
		if !strings.Contains(k.list(), want) {
			t.Errorf("no %q in\n%s", want, k.list())
		}
	}
	k.become(everything())
}

// TestForeignChanges lets nft change the table by hand: each is seen, and mended.
func TestForeignChanges(t *testing.T) {
	k := newKernel(t)
	want := everything()
	k.become(want)
	for _, c := range []struct{ script, diff string }{
		{"add rule inet culvert input tcp dport 23 accept", "- chain input rule 10: unknown rule"},
		{"insert rule inet culvert forward accept comment \"hole\"", "comment \"hole\""},
		{"flush chain inet culvert sub", "+ chain sub rule 1"},
		{"add chain inet culvert mine { type filter hook output priority 5; policy drop; }", "- chain mine"},
		{"chain inet culvert input { policy accept; }", "~ chain input"},
		{"delete element inet culvert ports { tcp . 1723 }", "+ set ports: tcp . 1723"},
		{"add element inet culvert addrs { 198.51.100.7 }", "- set addrs: 198.51.100.7"},
		{"add element inet culvert nets { 172.16.0.0/12 }", "- set nets: 172.16.0.0/12"},
		{"delete element inet culvert forwards { tcp . 80 }; add element inet culvert forwards { tcp . 80 : 192.168.1.66 . 22 }", "- set forwards: tcp . 80 : 192.168.1.66 . 22"},
		{"delete element inet culvert dispatch { \"eth1\" }; add element inet culvert dispatch { \"eth1\" : accept }", "- set dispatch: \"eth1\" : accept"},
		{"add set inet culvert s { type ether_addr; elements = { 02:00:00:00:00:01 } }", "- set s"},
		{"add set inet culvert s6 { typeof ip6 saddr . tcp dport; flags interval; elements = { 2001:db8::/32 . 80-90 } }", "- set s6"},
		{"add counter inet culvert hits; add quota inet culvert q { over 10 mbytes }", "- object \"hits\""},
		{"add rule inet culvert sub meta l4proto { tcp, udp } log limit rate 1/hour accept", "- chain sub rule 3"},
	} {
		k.nft(c.script)
		d := strings.Join(rs.Diff(want, k.observe()), "\n")
		if !strings.Contains(d, c.diff) {
			t.Errorf("%s: no %q in the diff:\n%s", c.script, c.diff, d)
		}
		k.become(want)
	}
}

// TestReplacedRule changes an expression of a rule and keeps its user data: as
// nearly hidden as it can be.
func TestReplacedRule(t *testing.T) {
	k := newKernel(t)
	want := &rs.Table{Chains: []rs.Chain{{Name: "input", Type: "filter", Hook: rs.Input, Drop: true, Rules: []rs.Rule{
		rs.R("ssh", rs.Dport{Protocol: rs.TCP, Port: 22}, accept)}}}}
	k.become(want)
	k.nft("replace rule inet culvert input handle 2 tcp dport 23 accept comment \"ssh\"")
	if d := rs.Diff(want, k.observe()); len(d) != 2 {
		t.Errorf("diff: %q", d)
	}
	k.become(want)
}

// TestChanges goes from one table to another in one transaction, with foreign
// tables and learned content beside.
func TestChanges(t *testing.T) {
	k := newKernel(t)
	k.nft("table ip other { chain x { type filter hook input priority 1; counter; }; set s { type mark; elements = { 7 } }; }\n" +
		"table inet other { chain x { tcp dport 1 accept; }; }")
	foreign := k.ns.Run(t, "nft -s list table ip other\nnft -s list table inet other")
	a := everything()
	k.become(a)
	k.nft("add element inet culvert learned { 192.0.2.1 . 10.0.0.1 : 192.168.1.7 }")
	learned := func() bool {
		return strings.Contains(k.ns.Run(t, "nft list map inet culvert learned"), "192.0.2.1 . 10.0.0.1")
	}
	edits := []struct {
		name string
		edit func(*rs.Table)
	}{
		{"rules", func(t *rs.Table) { t.Chains[0].Rules = t.Chains[0].Rules[1:] }},
		{"policy", func(t *rs.Table) { t.Chain("forward").Drop = false }},
		{"priority", func(t *rs.Table) { t.Chain("forward").Priority = -5 }},
		{"base becomes regular and the other way round", func(t *rs.Table) {
			c := t.Chain("srcnat")
			*c = rs.Chain{Name: "srcnat", Rules: c.Rules[:0]}
		}},
		{"set type", func(t *rs.Table) {
			*t.Set("addrs") = rs.Set{Name: "addrs", Key: []rs.Type{rs.IPv4Addr}, Interval: true,
				Elements: []rs.Element{{Key: rs.Addr(lan.Addr()), End: rs.PrefixEnd(lan)}}}
		}},
		{"set becomes map", func(t *rs.Table) {
			*t.Set("protos") = rs.Set{Name: "protos", Key: []rs.Type{rs.InetProto}, Verdicts: true,
				Elements: []rs.Element{{Key: rs.Protocol(50), Verdict: rs.Verdict{Kind: rs.Jump, Chain: "sub"}}}}
			c := t.Chain("forward")
			c.Rules = append([]rs.Rule{rs.R("", rs.Vmap{Key: rs.Fields{rs.FieldProtocol}, Map: "protos"})}, c.Rules[1:]...)
		}},
		{"elements", func(t *rs.Table) { s := t.Set("ports"); s.Elements = s.Elements[1:] }},
		{"helper gone", func(t *rs.Table) {
			t.Helpers = nil
			c := t.Chain("forward")
			c.Rules = append(append([]rs.Rule{}, c.Rules[:5]...), c.Rules[6])
		}},
		{"chain renamed", func(t *rs.Table) {
			t.Chain("sub").Name = "sub2"
			t.Chain("forward").Rules[6] = rs.R("", rs.Verdict{Kind: rs.Jump, Chain: "sub2"})
			t.Set("dispatch").Elements[0].Verdict.Chain = "sub2"
		}},
	}
	for _, e := range edits {
		b := everything()
		e.edit(b)
		if rs.Equal(a, b) {
			t.Fatalf("%s: changes nothing", e.name)
		}
		k.become(b)
		k.become(a)
		if !learned() {
			t.Fatalf("%s: what was learnt is gone", e.name)
		}
	}
	if now := k.ns.Run(t, "nft -s list table ip other\nnft -s list table inet other"); now != foreign {
		t.Errorf("foreign tables changed:\n%s", cmp.Diff(foreign, now))
	}
}

// TestErrors: the object that the kernel refuses is named, and nothing changes.
func TestErrors(t *testing.T) {
	k := newKernel(t)
	a := everything()
	k.become(a)
	b := everything()
	b.Helpers[0].Type = "nosuch"
	err := k.apply(k.observe(), b)
	if err == nil || !strings.Contains(err.Error(), "ct helper pptp") {
		t.Errorf("error: %v", err)
	}
	b = everything()
	b.Chains[0].Rules[0] = rs.R("", rs.Verdict{Kind: rs.Jump, Chain: "nowhere"})
	err = k.apply(k.observe(), b)
	if err == nil || !strings.Contains(err.Error(), "chain input rule 1 (jump nowhere)") {
		t.Errorf("error: %v", err)
	}
	k.is(a)
}

// TestFlowtable needs a kernel with flowtables, which the router's is.
func TestFlowtable(t *testing.T) {
	k := newKernel(t)
	var err error
	k.ns.Do(func() { err = nft.New(nft.Options{}).ProbeFlowtable() })
	if err != nil {
		t.Skipf("missing capability: nftables flowtables in the kernel (CONFIG_NF_FLOW_TABLE): %v", err)
	}
	nettest.Veth(t, k.ns, "a0", k.ns, "b0")
	tab := everything()
	tab.Chains[1].Rules = append(tab.Chains[1].Rules, rs.R("offload", rs.L4{Protocol: rs.TCP}, rs.Offload{Flowtable: "ft"}))
	tab.Flowtables = []rs.Flowtable{{Name: "ft", Counter: true}}
	for _, devices := range [][]string{nil, {"a0"}, {"a0", "b0"}, {"b0"}, nil} {
		k.become(tab.WithFlowtableDevices(devices...))
	}
	if err := k.apply(k.observe(), tab.WithFlowtableDevices("nosuch0")); err == nil || !strings.Contains(err.Error(), "flowtable ft, devices [nosuch0]") {
		t.Errorf("a device that does not exist: %v", err)
	}
	k.become(everything())
}

// forwards is a table with n port forwards.
func forwards(n int) *rs.Table {
	t := everything()
	m := t.Set("forwards")
	m.Elements = nil
	for i := range n {
		p := rs.Protocol(rs.TCP)
		if i >= 60000 {
			p = rs.Protocol(rs.UDP)
		}
		m.Elements = append(m.Elements, rs.Element{Key: rs.Cat(p, rs.PortNumber(i+1)), Why: fmt.Sprintf("firewall forward f%d", i),
			Data: rs.Cat(rs.Addr(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})), rs.PortNumber(i+1))})
	}
	m.Sort()
	return t
}

func TestManyForwards(t *testing.T) {
	k := newKernel(t)
	k.become(forwards(10000))
	handles := func() string {
		return strings.SplitAfterN(k.ns.Run(t, "nft -a -s list chain inet culvert forward"), "}", 2)[0]
	}
	before := handles()
	k.become(forwards(10001))
	k.become(forwards(9999))
	if after := handles(); before != after {
		t.Errorf("a forward more rewrote the chains:\n%s", cmp.Diff(before, after))
	}
}

func BenchmarkApply(b *testing.B) {
	for _, n := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprintf("all-%d", n), func(b *testing.B) {
			k := &kernel{b, nettest.New(b)}
			tab := forwards(n)
			for b.Loop() {
				if err := k.apply(nil, tab); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("one-more-%d", n), func(b *testing.B) {
			k := &kernel{b, nettest.New(b)}
			x, y := forwards(n), forwards(n+1)
			if err := k.apply(nil, x); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := k.apply(x, y); err != nil {
					b.Fatal(err)
				}
				x, y = y, x
			}
		})
		b.Run(fmt.Sprintf("observe-%d", n), func(b *testing.B) {
			k := &kernel{b, nettest.New(b)}
			if err := k.apply(nil, forwards(n)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				k.observe()
			}
		})
	}
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }
