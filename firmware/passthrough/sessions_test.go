package passthrough_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/passthrough"
)

// TestGoldens reads testdata/*.txtar: "conntrack" is a listing of conntrack(8)
// with -o ktimestamp, age= in seconds before now; "native" is what table ip
// learned, a device of a server a line; the others are what is shown of them.
func TestGoldens(t *testing.T) {
	golden.Run(t, func(t *testing.T, in map[string]string) map[string]string {
		var entries []conntrack.Entry
		var native []passthrough.Native
		for l := range strings.Lines(in["conntrack"]) {
			entries = append(entries, parse(t, l))
		}
		for l := range strings.Lines(in["native"]) {
			native = append(native, parseNative(t, l))
		}
		out := map[string]string{}
		for name := range in {
			if show := shown[name]; show != nil {
				out[name] = show(entries, native)
			} else if name != "conntrack" && name != "native" {
				t.Fatalf("no such file in a golden: %s", name)
			}
		}
		return out
	})
}

var now = time.Unix(1_800_000_000, 0)

// view has the time-outs that the router sets.
var view = passthrough.View{
	LAN: netip.MustParsePrefix("192.168.1.1/24"), Now: now, Uptime: time.Hour,
	Names: map[netip.Addr]string{netip.MustParseAddr("192.168.1.10"): "laptop"},
	Lookout: passthrough.Lookout{
		Ports: map[passthrough.Port]string{{6, 1723}: "pptp", {6, 1724}: "pptp", {17, 1701}: "l2tp", {17, 500}: "ipsec", {17, 4500}: "ipsec",
			{17, 4502}: "ipsec", {17, 1194}: "openvpn", {6, 1194}: "openvpn", {17, 51820}: "wireguard"},
		SSTP: []netip.Prefix{netip.MustParsePrefix("198.51.100.64/28")}, Served: netip.MustParseAddr("192.168.1.66"),
	},
	Timeouts: passthrough.Timeouts{
		TCPEstablished: 7440 * time.Second, TCPShort: 300 * time.Second, UDP: 120 * time.Second, UDPStream: 300 * time.Second,
		GRE: 180 * time.Second, GREStream: 1800 * time.Second, Generic: 1800 * time.Second,
	},
}

var shown = map[string]func([]conntrack.Entry, []passthrough.Native) string{
	"sessions": sessions, "counters": counters, "protection": protection,
}

func protection(entries []conntrack.Entry, native []passthrough.Native) string {
	p := passthrough.NewProtection(view, netip.MustParseAddr("203.0.113.2"))
	for _, e := range entries {
		p.Add(&e)
	}
	for _, n := range native {
		p.AddNative(n)
	}
	var b strings.Builder
	for _, d := range p.Devices() {
		fmt.Fprintf(&b, "%s %s %s: %s\n", d.Device, d.Name, d.State, strings.Join(d.Reasons, "; "))
		if d.State != "protected" && len(d.Tunnels) > 0 {
			fmt.Fprintf(&b, "  beside %s\n", strings.Join(d.Tunnels, ", "))
		}
		for _, o := range d.Outside {
			fmt.Fprintf(&b, "  %s %d %s\n", o.Kind, o.Flows, o.Example)
		}
	}
	return b.String()
}

func counters(_ []conntrack.Entry, native []passthrough.Native) string {
	var b strings.Builder
	for _, c := range passthrough.Counters(native) {
		fmt.Fprintf(&b, "%s | %d devices, copied %t, %d known | out %d spis %d/%d | in %d spis %d/%d\n", c.Server, c.Devices, c.Copied, c.SPIsBound,
			c.SPIsOut, c.PktsOut, c.BytesOut, c.SPIsIn, c.PktsIn, c.BytesIn)
	}
	return b.String()
}

func sessions(entries []conntrack.Entry, native []passthrough.Native) string {
	var relevant []conntrack.Entry
	for _, e := range entries {
		if view.Relevant(&e) {
			relevant = append(relevant, e)
		}
	}
	list := append(passthrough.Sessions(relevant, view), passthrough.NativeSessions(native, view)...)
	passthrough.Sort(list)
	var b strings.Builder
	for _, s := range list {
		arrow := "->"
		if s.Inbound {
			arrow = "<-"
		}
		b.WriteString(text(s, arrow))
	}
	return b.String()
}

func text(s api.Session, arrow string) string {
	last := "?"
	if s.Last != nil {
		last = s.Last.String()
	}
	return fmt.Sprintf("%s %s %s %s | %s %s | %s | %s, %s | age %s last %s | out %d/%d in %d/%d\n", s.Device, s.Name, arrow, s.Server,
		s.Protocol, s.Kind, s.IDs, s.State, s.Owner, s.Age, last, s.PktsOut, s.BytesOut, s.PktsIn, s.BytesIn)
}

// parse reads a line of conntrack(8).
func parse(t *testing.T, line string) conntrack.Entry {
	t.Helper()
	f := strings.Fields(line)
	p, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	e := conntrack.Entry{Protocol: uint8(p), Status: conntrack.SeenReply}
	left, err := strconv.Atoi(f[2])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	e.Timeout = time.Duration(left) * time.Second
	tuple, master := &e.Orig, false
	seen := false
	for _, w := range f[3:] {
		k, v, _ := strings.Cut(w, "=")
		n, _ := strconv.ParseUint(v, 0, 64)
		switch k {
		case "src":
			if seen && !master {
				tuple = &e.Reply
			}
			seen = true
			tuple.Src = netip.MustParseAddr(v)
		case "dst":
			tuple.Dst = netip.MustParseAddr(v)
		case "sport", "srckey":
			tuple.SrcPort = uint16(n)
		case "dport", "dstkey":
			tuple.DstPort = uint16(n)
		case "packets":
			if tuple == &e.Orig {
				e.OrigPackets = n
			} else {
				e.ReplyPackets = n
			}
		case "bytes":
			if tuple == &e.Orig {
				e.OrigBytes = n
			} else {
				e.ReplyBytes = n
			}
		case "age":
			e.Start = now.Add(-time.Duration(n) * time.Second)
		case "master":
			tuple, master = &e.Master, true
		case "[UNREPLIED]":
			e.Status = 0
		case "[ASSURED]":
			e.Status |= conntrack.Assured
		case "[DNAT]":
			e.Status |= conntrack.DestNAT
		case "[OFFLOAD]":
			e.Status |= conntrack.Offload
		default:
			for s := conntrack.TCPState(1); s.String() != ""; s++ {
				if k == s.String() {
					e.TCPState = s
				}
			}
		}
	}
	return e
}

// parseNative reads a server, a device and what was learned of them; last=,
// packets= and bytes= belong to what stands before them.
func parseNative(t *testing.T, line string) passthrough.Native {
	t.Helper()
	f := strings.Fields(line)
	n := passthrough.Native{Server: netip.MustParseAddr(f[0]), Device: netip.MustParseAddr(f[1])}
	var last *time.Duration
	var of *passthrough.ESP
	for _, w := range f[2:] {
		k, v, _ := strings.Cut(w, "=")
		x, err := strconv.ParseUint(v, 0, 64)
		if err != nil && k != "shared" && k != "bound" {
			t.Fatalf("%s: %v", line, err)
		}
		switch k {
		case "since":
			n.Since = now.Add(-time.Duration(x) * time.Second)
		case "shared":
			n.Shared = true
		case "cookie":
			n.Cookies = append(n.Cookies, passthrough.Cookie{SPI: x})
			last = &n.Cookies[len(n.Cookies)-1].Last
		case "out":
			n.Out = append(n.Out, passthrough.ESP{SPI: uint32(x)})
			of = &n.Out[len(n.Out)-1]
			last = &of.Last
		case "in":
			n.In = append(n.In, passthrough.ESP{SPI: uint32(x)})
			of = &n.In[len(n.In)-1]
		case "bound":
			of.Bound = netip.MustParseAddr(v)
		case "last":
			*last = time.Duration(x) * time.Second
		case "packets":
			of.Packets = x
		case "bytes":
			of.Bytes = x
		default:
			t.Fatalf("%s: %q", line, w)
		}
	}
	return n
}

func TestBehind(t *testing.T) {
	for wan, want := range map[string]string{
		"203.0.113.2": "none", "100.63.255.255": "none", "100.64.0.0": "cgnat", "100.127.255.255": "cgnat", "100.128.0.0": "none",
		"10.0.0.5": "nat", "172.15.255.255": "none", "172.31.0.1": "nat", "172.32.0.1": "none", "192.168.178.20": "nat", "": "",
	} {
		a, _ := netip.ParseAddr(wan)
		if got := passthrough.Behind(a); got != want {
			t.Errorf("%s: behind %q, want %q", wan, got, want)
		}
	}
}
