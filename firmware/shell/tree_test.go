package shell

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestTree holds what every command must have.
func TestTree(t *testing.T) {
	seen := map[string]bool{}
	walk(Root(), nil, func(path string, c *Command) {
		if seen[path] {
			t.Errorf("%s is there twice", path)
		}
		seen[path] = true
		if c.Help == "" || strings.HasSuffix(c.Help, ".") {
			t.Errorf("%s: help %q; want one line without a full stop", path, c.Help)
		}
		if strings.HasPrefix(path, "show ") != c.JSON && path != "history" && path != "key list" && path != "diagnose vpn" {
			t.Errorf("%s: every show command takes --json, others don't", path)
		}
	})
	for _, c := range strings.Split("show status,show interfaces,show leases,show passthrough,show connections,show firewall,show log,show version,show settings,"+
		"set,delete,compare,commit,confirm,discard,rollback,history,export,import,ping,traceroute,diagnose vpn,reboot,poweroff,factory-reset,password,key add,toolbox,help", ",") {
		if !seen[c] {
			t.Errorf("there is no %s", c)
		}
	}
	ref := Reference()
	for path := range seen {
		if !strings.Contains(ref, "`"+path) {
			t.Errorf("the reference lacks %s", path)
		}
	}
}

func TestSplit(t *testing.T) {
	for line, want := range map[string][][]string{
		"":                               nil,
		"  show\tstatus ":                {{"show", "status"}},
		`set x "a b;c" 'd "e'`:           {{"set", "x", "a b;c", `d "e`}},
		`set x ""`:                       {{"set", "x", ""}},
		`set x a\ b\"`:                   {{"set", "x", `a b"`}},
		"set a 1; commit ;; show log #x": {{"set", "a", "1"}, {"commit"}, {"show", "log"}},
		"# all":                          nil,
		"a#b":                            {{"a#b"}},
	} {
		got, err := split(line)
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%q: %q, %v; want %q", line, got, err, want)
		}
	}
	// What settings quotes, the shell reads back.
	for _, w := range []string{"plain", "two words", `a"b`, `back\slash`, "it's", "#x", "a;b", "", "ü"} {
		if got, err := split("set " + settings.Quote(w)); err != nil || len(got) != 1 || len(got[0]) != 2 || got[0][1] != w {
			t.Errorf("%q quoted is %s and reads back as %q, %v", w, settings.Quote(w), got, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"show status", `a "b`, `\`, ";;", "#", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cmds, _ := split(s)
		for _, c := range cmds {
			if len(c) == 0 {
				t.Errorf("%q: an empty command", s)
			}
		}
		splitPartial(s)
		for _, c := range cmds {
			find(Root(), c) //nolint:errcheck // it must not panic
		}
	})
}

func TestFormats(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 45 * time.Second: "45s", 60 * time.Second: "1m", 725 * time.Second: "12m5s", 3*time.Hour + 20*time.Minute: "3h20m",
		24 * time.Hour: "1d", 100*time.Hour + time.Minute: "4d4h", -5 * time.Second: "-5s", 400 * time.Millisecond: "0s",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1.0K", 1023: "1.0K", 10 << 10: "10K", 1023 << 10: "1.0M", 1 << 20: "1.0M",
		99 << 30: "99G", 1<<64 - 1: "16E"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	base := settings.Default()
	mine, theirs := base.Clone(), base.Clone()
	for _, e := range []struct {
		s     *settings.Settings
		words string
	}{
		{mine, "passthrough pptp off"}, {theirs, "passthrough l2tp off"},
		{mine, "firewall forward a protocol tcp port 80 to 192.168.1.5"}, {theirs, "firewall forward b protocol tcp port 81 to 192.168.1.6"},
		{mine, "dns upstreams 9.9.9.9"}, {theirs, "dns upstreams 9.9.9.9"}, // both the same
	} {
		if err := settings.Set(e.s, strings.Fields(e.words)); err != nil {
			t.Fatal(err)
		}
	}
	c := &candidate{revision: 1, base: base, next: mine}
	clashes, err := c.rebase(2, theirs)
	if err != nil || len(clashes) > 0 || c.revision != 2 {
		t.Fatalf("rebase: %v, %v", clashes, err)
	}
	want := theirs.Clone()
	for _, w := range []string{"passthrough pptp off", "firewall forward a protocol tcp port 80 to 192.168.1.5"} {
		if err := settings.Set(want, strings.Fields(w)); err != nil {
			t.Fatal(err)
		}
	}
	if !c.next.Equal(want) {
		t.Errorf("merged: %s", strings.Join(settings.Compare(want, c.next), "\n"))
	}
	if err := settings.Set(theirs, strings.Fields("firewall forward a protocol udp port 80 to 192.168.1.7")); err != nil {
		t.Fatal(err)
	}
	c = &candidate{revision: 1, base: base, next: mine}
	if clashes, err = c.rebase(2, theirs); err != nil || len(clashes) == 0 || !strings.HasPrefix(clashes[0], "firewall forward a") {
		t.Errorf("two different forwards of one name: %v, %v", clashes, err)
	}
	if c.revision != 1 {
		t.Error("a clash moved the candidate")
	}
}

func TestPingKnowsItsAnswers(t *testing.T) {
	p := &pinger{id: 0x1234, seq: 7, dst: netip.MustParseAddr("192.0.2.1")}
	req := p.request()
	if checksum(req) != 0 {
		t.Error("the checksum is wrong")
	}
	echo := append([]byte(nil), req...)
	echo[0] = 0
	quoted := append([]byte{11, 0, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 84, 0, 0, 0, 0, 1, 1, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1}, req...)
	other := append([]byte(nil), echo...)
	binary.BigEndian.PutUint16(other[6:], 6)
	for name, c := range map[string]struct {
		b  []byte
		ok bool
	}{"reply": {echo, true}, "time exceeded": {quoted, true}, "earlier reply": {other, false}, "request": {req, false},
		"short": {echo[:5], false}, "short quote": {quoted[:30], false}, "empty": {nil, false}} {
		if _, _, ok := p.mine(c.b); ok != c.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

func FuzzPingAnswer(f *testing.F) {
	p := &pinger{id: 1, seq: 2}
	f.Add(p.request())
	quoted := append([]byte{11, 0, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 84, 0, 0, 0, 0, 1, 1, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1}, p.request()...)
	for n := range quoted { // cut off anywhere, also in a header that claims options
		f.Add(quoted[:n:n])
		options := append([]byte(nil), quoted...)
		options[8] = 0x4f
		f.Add(options[:n:n])
		f.Add(append(options[:n:n], make([]byte, 40)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) { p.mine(b) })
}
