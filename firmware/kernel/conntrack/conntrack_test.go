package conntrack_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
)

// table is a namespace with entries of many kinds, made by conntrack(8): the
// same program then reads what we read.
func table(t testing.TB) *nettest.NS {
	nettest.Need(t, "conntrack", "nft")
	ns := nettest.New(t)
	ns.Sysctl(t, "net/netfilter/nf_conntrack_acct", "1")
	ns.Sysctl(t, "net/netfilter/nf_conntrack_timestamp", "1")
	return ns
}

func dump(t testing.TB, ns *nettest.NS) []conntrack.Entry {
	t.Helper()
	var out []conntrack.Entry
	var err error
	ns.Do(func() {
		var c *conntrack.Conn
		if c, err = conntrack.New(); err == nil {
			err = c.Dump(func(e *conntrack.Entry) error { out = append(out, *e); return nil })
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// line prints an entry the way `conntrack -L -o id,ktimestamp` does, as far as it does not
// change by itself.
func line(e conntrack.Entry) string {
	tuple := func(t conntrack.Tuple) string {
		s := fmt.Sprintf(" src=%s dst=%s", t.Src, t.Dst)
		switch e.Protocol {
		case 6, 17:
			s += fmt.Sprintf(" sport=%d dport=%d", t.SrcPort, t.DstPort)
		case 47:
			s += fmt.Sprintf(" srckey=0x%x dstkey=0x%x", t.SrcPort, t.DstPort)
		}
		return s
	}
	s := strconv.Itoa(int(e.Protocol))
	if e.Protocol == 6 {
		s += " " + e.State()
	}
	s += tuple(e.Orig)
	if e.Status&conntrack.SeenReply == 0 {
		s += " [UNREPLIED]"
	}
	s += tuple(e.Reply)
	if e.Status&conntrack.Assured != 0 {
		s += " [ASSURED]"
	}
	s += fmt.Sprintf(" mark=%d", e.Mark)
	if e.Helper != "" {
		s += " helper=" + e.Helper
	}
	if e.Zone != 0 {
		s += fmt.Sprintf(" zone=%d", e.Zone)
	}
	return s
}

// oracle is what conntrack(8) prints, reduced to the same.
func oracle(t testing.TB, ns *nettest.NS) []string {
	var out []string
	for l := range strings.Lines(ns.Run(t, "conntrack -L")) {
		f := strings.Fields(l)
		if len(f) < 4 || f[0] == "conntrack" {
			continue
		}
		s := []string{f[1]} // protocol number; f[2] is the timeout
		for _, x := range f[3:] {
			if !strings.HasPrefix(x, "packets=") && !strings.HasPrefix(x, "bytes=") && !strings.HasPrefix(x, "use=") && !strings.HasPrefix(x, "delta-time=") {
				s = append(s, x)
			}
		}
		out = append(out, strings.Join(s, " "))
	}
	sort.Strings(out)
	return out
}

func TestDumpAndDelete(t *testing.T) {
	ns := table(t)
	// The program makes entries over ctnetlink; connection tracking itself
	// starts with the first rule that needs it.
	ns.Run(t, `nft add table ip t
		nft add chain ip t c { type filter hook input priority 0 ; }
		nft add rule ip t c ct state established accept
		conntrack -I -p tcp -s 192.168.1.10 -d 198.51.100.1 --sport 40000 --dport 1723 --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 100 -m 305419896
		conntrack -I -p tcp -s 192.168.1.10 -d 198.51.100.1 --sport 40001 --dport 443 --state SYN_SENT -t 100 -n 203.0.113.2
		conntrack -I -p udp -s 192.168.1.11 -d 198.51.100.1 --sport 1701 --dport 1701 -t 100
		conntrack -I -p udp -s 192.168.1.11 -d 198.51.100.1 --sport 4500 --dport 4500 -t 100 -w 7
		conntrack -I -p gre -s 192.168.1.10 -d 198.51.100.1 --srckey 0x11 --dstkey 0x2222 -t 100
		conntrack -I -p 50 -s 192.168.1.12 -d 198.51.100.1 -t 100`)
	entries := dump(t, ns)
	var got []string
	for _, e := range entries {
		got = append(got, line(e))
		if e.Timeout <= 0 || e.Timeout > 100*time.Second || time.Since(e.Start) > time.Minute || e.ID == 0 {
			t.Errorf("%s: timeout %v, start %v, id %d", line(e), e.Timeout, e.Start, e.ID)
		}
	}
	sort.Strings(got)
	if d := cmp.Diff(oracle(t, ns), got); d != "" || len(got) != 6 {
		t.Fatalf("conntrack(8) sees something else (-its +ours):\n%s", d)
	}
	ns.Do(func() {
		c, err := conntrack.New()
		if err != nil {
			t.Error(err)
			return
		}
		if used, most, err := c.Fill(); err != nil || used != 6 || most < 6 {
			t.Errorf("fill: %d of %d, %v", used, most, err)
		}
		n, err := c.Delete(func(e *conntrack.Entry) bool { return e.Protocol == 17 || e.Protocol == 47 })
		if n != 3 || err != nil {
			t.Errorf("deleted %d, %v; the one in zone 7 too", n, err)
		}
	})
	if d := cmp.Diff(3, len(oracle(t, ns))); d != "" {
		t.Errorf("left (-want +have): %s", d)
	}
}

// TestFlows reads the counters of a real connection, and ends it.
func TestFlows(t *testing.T) {
	a, b := table(t), nettest.New(t)
	nettest.Veth(t, a, "v0", b, "v1")
	a.Run(t, `ip addr add 10.9.0.1/24 dev v0
		nft add table ip t
		nft add chain ip t c { type filter hook output priority 0 ; }
		nft add rule ip t c ct state new accept`)
	b.Run(t, "ip addr add 10.9.0.2/24 dev v1")
	var l net.Listener
	var conn net.Conn
	var err error
	b.Do(func() { l, err = net.Listen("tcp", "10.9.0.2:1723") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.Do(func() { conn, err = net.DialTimeout("tcp", "10.9.0.2:1723", 10*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	peer.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(peer, make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	entries := dump(t, a)
	if len(entries) != 1 {
		t.Fatalf("entries: %+v", entries)
	}
	e := entries[0]
	if e.OrigBytes < 5000 || e.OrigPackets == 0 || e.ReplyPackets == 0 || e.State() != "ESTABLISHED" || e.ProtocolName() != "tcp" ||
		e.Orig.Dst != netip.MustParseAddr("10.9.0.2") || e.Orig.DstPort != 1723 || e.Reply.SrcPort != 1723 || e.Offloaded() || e.DNATed() {
		t.Errorf("%+v", e)
	}
}

// TestFull streams a table as large as a board's.
func TestFull(t *testing.T) {
	ns := table(t)
	ns.Run(t, `nft add table ip t
		nft add chain ip t c { type filter hook output priority 0 ; }
		nft add rule ip t c ct state new accept`)
	const n = 3000
	ns.Do(func() {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for i := range n {
			// Discarded by nobody: only the entry matters.
			if _, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, byte(i>>8), byte(i)|1), Port: 20000 + i}); err != nil && !strings.Contains(err.Error(), "refused") {
				t.Error(err)
				return
			}
		}
	})
	entries := dump(t, ns)
	if len(entries) < n*9/10 || len(entries) > n+10 {
		t.Fatalf("%d entries, want about %d", len(entries), n)
	}
	ns.Do(func() {
		c, _ := conntrack.New()
		if deleted, err := c.Delete(func(*conntrack.Entry) bool { return true }); err != nil || deleted < n*9/10 {
			t.Errorf("deleted %d, %v", deleted, err)
		}
	})
	if left := dump(t, ns); len(left) > 10 {
		t.Errorf("%d entries left", len(left))
	}
}
