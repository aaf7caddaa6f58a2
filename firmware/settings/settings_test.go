package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-fw/culvert/firmware/settings/migrate"
)

const (
	testKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g admin@laptop"
	testHash = "$argon2id$v=19$m=8192,t=3,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2g"
)

// full has a value other than the default nearly everywhere.
func full(t testing.TB) *Settings {
	t.Helper()
	s := Default()
	if out := apply(s, `
		set system hostname home
		set system ntp servers none
		set system admin keys "`+testKey+`"
		set lan address 10.0.0.1/16
		set lan dhcp off start 5 end 600 lease-time 1d
		set lan hosts tv mac 02:00:00:00:00:01 address 10.0.0.7
		set lan hosts nas mac 02:00:00:00:00:02 address 10.0.0.8
		set lan hosts phone mac 02:00:00:00:00:03
		set lan groups kids members tv 10.0.3.0/24
		set lan groups empty members none
		set wan mode static mtu 1400
		set wan static address 203.0.113.2/24 gateway 203.0.113.1
		set dns cache-size 0 upstreams 9.9.9.9 1.1.1.1
		set firewall offload off wan-ping on
		set firewall forward web port 8080 to 10.0.0.8 to-port 80
		set firewall forward game off protocol udp port 3074 to 10.0.0.7
		set passthrough pptp off
		set passthrough ipsec devices kids nas
		set passthrough ipsec servers VPN.example.com. 198.51.100.0/24
		set ssh port 2222 wan on`); out != "" {
		t.Fatal(out)
	}
	s.System.Admin.Password = testHash
	if p := s.Validate(); p != nil {
		t.Fatal(p)
	}
	return s
}

func TestDefaultIsValid(t *testing.T) {
	if p := Default().Validate(); p != nil {
		t.Error(p)
	}
	if migrate.Current() != Version {
		t.Errorf("migrate leads to version %d, settings are %d", migrate.Current(), Version)
	}
}

// What Lines shows makes the same tree when typed.
func TestLinesRoundTrip(t *testing.T) {
	for _, s := range []*Settings{Default(), full(t)} {
		got := Default()
		for _, l := range Lines(s) {
			if strings.HasSuffix(l, secretSet) {
				continue
			}
			if out := apply(got, l); out != "" {
				t.Fatal(out)
			}
		}
		got.System.Admin.Password = s.System.Admin.Password
		if !got.Equal(s) {
			t.Errorf("typed lines differ:\n%s", text(Compare(s, got)))
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	for _, s := range []*Settings{Default(), full(t)} {
		for _, doc := range [][]byte{Export(s, true), s.Compact()} {
			got, p := Parse(doc)
			if p != nil {
				t.Fatalf("%v\n%s", p, doc)
			}
			if !got.Equal(s) || !bytes.Equal(Export(got, true), Export(s, true)) {
				t.Errorf("parsed differs:\n%s", text(Compare(s, got)))
			}
		}
		std, err := json.Marshal(s) // what others may write
		if err != nil {
			t.Fatal(err)
		}
		if got, p := Parse(std); p != nil || !got.Equal(s) {
			t.Errorf("json.Marshal's form: %v", p)
		}
	}
}

// Delete of each line's path leads back to the default.
func TestDeleteAll(t *testing.T) {
	s := full(t)
	lines := Lines(s)
	group := slices.Index(lines, "set lan groups kids members tv 10.0.3.0/24")
	for _, l := range append(slices.Delete(slices.Clone(lines), group, group+1), lines[group]) { // it is in a list
		words, _ := Split(l)
		n := 2
		for n < len(words) {
			if node, rest, err := Lookup(words[1:n]); err == nil && len(rest) == 0 && node.Kind != Area && node.Kind != Map {
				break
			}
			n++
		}
		if words[n-1] == "on" || words[n-1] == "off" {
			n-- // a switch goes by its parent
		}
		if err := Delete(s, words[1:n]); err != nil && !strings.Contains(err.Error(), "has no") {
			t.Errorf("delete %q: %v", words[1:n], err)
		}
	}
	if left := Compare(Default(), s); len(left) != 0 {
		t.Errorf("left over:\n%s", text(left))
	}
}

func TestCloneShares(t *testing.T) {
	a := full(t)
	b := a.Clone()
	if diff := cmp.Diff(Export(a, true), Export(b, true)); diff != "" {
		t.Fatal(diff)
	}
	b.LAN.Hosts["tv"] = Host{}
	b.DNS.Upstreams[0] = netip.MustParseAddr("8.8.8.8")
	b.System.Admin.Keys[0] = "x"
	if !a.Equal(full(t)) {
		t.Error("a change of the clone changed the original")
	}
	if a.Equal(b) {
		t.Error("Equal does not see a difference")
	}
}

func TestSecrets(t *testing.T) {
	s := full(t)
	r := s.Redacted()
	for name, out := range map[string]string{
		"Export": string(Export(s, false)), "Lines": text(Lines(s)), "Compare": text(Compare(Default(), s)),
		"%v": fmt.Sprintf("%v %+v %#v", s.System, s, s.System.Admin), "Redacted": string(r.Compact()),
		"Complete": fmt.Sprint(Complete(s, []string{"system", "admin", ""}), CompletePath(s, []string{"system", "admin", "password", ""})),
	} {
		if strings.Contains(out, "argon2id") || strings.Contains(out, "c2FsdA") {
			t.Errorf("%s shows the secret:\n%s", name, out)
		}
	}
	if p := r.Validate(); len(p) != 1 || p[0].Path != "system admin password" {
		t.Errorf("a redacted tree is valid: %v", p)
	}
	parsed, p := Parse(Export(s, false))
	if p != nil {
		t.Fatal(p)
	}
	parsed.MergeSecrets(s)
	if !parsed.Equal(s) {
		t.Error("redacted, parsed and merged is not the same")
	}
	changed := s.Clone()
	changed.System.Admin.Password = Secret(strings.Replace(testHash, "aGFz", "bGFz", 1))
	if got := text(Compare(s, changed)); got != "+ set system admin password (set) to another value\n" {
		t.Errorf("Compare: %s", got)
	}
	changed.System.Admin.Keys = nil
	if err := Delete(changed, []string{"system", "admin", "password"}); err == nil {
		t.Error("the last credential can be deleted")
	}
}

func TestRedactedFresh(t *testing.T) {
	if s := Default().Redacted(); s.System.Admin.Password != "" {
		t.Error("a secret that is not set reads as set")
	}
}

func TestParseBounds(t *testing.T) {
	many := func(list string, n int, elem func(i int) string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(elem(i))
		}
		return fmt.Sprintf(list, b.String())
	}
	tests := []struct{ name, doc, want string }{
		{"forwards", many(`{"version":1,"firewall":{"forward":{%s}},"ssh":{"port":23}}`, 10001, func(i int) string { return fmt.Sprintf(`"f%d":{}`, i) }), "firewall forward: too many (allowed: at most 10000)"},
		{"upstreams", many(`{"version":1,"dns":{"upstreams":[%s],"cache-size":1}}`, 9, func(int) string { return `"1.1.1.1"` }), "dns upstreams: too many (allowed: at most 8)"},
		{"size", `{"version":1,"x":"` + strings.Repeat("x", MaxJSON) + `"}`, "settings: too large (got 4194324 bytes; allowed: at most 4194304 bytes)"},
		{"depth", strings.Repeat(`{"lan":`, 20000), "exceeded max depth"},
		{"two documents", `{"version":1}{"version":1}`, "line 1, column 14: invalid character '{' after top-level value"},
		{"empty", ``, "line 1, column 1: unexpected end of JSON input"},
		{"list", `[]`, "settings: not a JSON object"},
		{"null", `null`, "version: missing"},
		{"version text", `{"version":"1"}`, `version: not a version (got "1"; allowed: 1)`},
		{"version 0", `{"version":0}`, "version: no such version"},
		{"control characters", `{"version":1,"\u001b[2J":1}`, `"\x1b[2J": unknown setting`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, p := Parse([]byte(tt.doc))
			if s != nil || len(p) != 1 || !strings.Contains(p.Error(), tt.want) {
				t.Errorf("%d problems: %.300s\nwant %s", len(p), p.Error(), tt.want)
			}
		})
	}
}

// The largest tree that is valid is still one that Parse takes.
func TestLargestFits(t *testing.T) {
	s := Default()
	s.LAN.Address = netip.MustParsePrefix("10.255.0.1/16")
	s.Firewall.Forwards, s.LAN.Hosts = map[string]Forward{}, map[string]Host{}
	name := strings.Repeat("n", 58)
	for i := range 10000 {
		s.Firewall.Forwards[fmt.Sprintf("%s%05d", name, i)] = Forward{Enabled: false, Protocol: TCPUDP, Port: 10000 + i, To: netip.MustParseAddr("10.255.255.100"), ToPort: 65535}
	}
	for i := range 1024 {
		s.LAN.Hosts[fmt.Sprintf("%s%05d", name, i)] = Host{MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256), Address: Nth(s.LAN.Address, 1000+i)}
	}
	s.LAN.Groups = map[string]Group{}
	for i := range 64 {
		var g Group
		for j := range 128 {
			g.Members = append(g.Members, fmt.Sprintf("%s%05d", name, j))
		}
		s.LAN.Groups["g"+name+fmt.Sprint(100+i)] = g
	}
	for _, p := range s.Passthrough.Protocols() {
		for i := range 256 {
			p.Devices = append(p.Devices, fmt.Sprintf("%s%05d", name, i))
			p.Servers = append(p.Servers, strings.Repeat(strings.Repeat("n", 61)+".", 4)+fmt.Sprintf("%03d", i)+"xy")
		}
	}
	for i := range 32 {
		k := []byte(testKey[:80] + " ")
		copy(k[40:42], fmt.Sprintf("%02d", i))
		s.System.Admin.Keys = append(s.System.Admin.Keys, string(k)+strings.Repeat("c", 8000))
	}
	if p := s.Validate(); p != nil {
		t.Fatalf("%.500s", p.Error())
	}
	doc := Export(s, true)
	if got, p := Parse(doc); p != nil || !got.Equal(s) {
		t.Errorf("%d bytes: %v", len(doc), p)
	}
}

func TestValidateEmptyTree(t *testing.T) {
	if p := new(Settings).Validate(); len(p) < 8 {
		t.Errorf("only %d problems in the zero tree: %v", len(p), p)
	}
}

func TestLookup(t *testing.T) {
	tests := []struct {
		path string
		kind Kind
		rest int
		typ  string
	}{
		{"", Area, 0, ""},
		{"lan", Area, 0, ""},
		{"lan hosts", Map, 0, ""},
		{"lan hosts tv", Entry, 0, ""},
		{"lan hosts tv mac", Leaf, 0, "mac"},
		{"lan address 1.2.3.4/8", Leaf, 1, "address/prefix"},
		{"passthrough pptp off", Leaf, 1, "on|off"},
		{"dns upstreams 1.1.1.1 2.2.2.2", List, 2, "address"},
		{"wan mode", Leaf, 0, "dhcp|static"},
		{"system admin password", Leaf, 0, "password"},
	}
	for _, tt := range tests {
		n, rest, err := Lookup(strings.Fields(tt.path))
		if err != nil || n.Kind != tt.kind || len(rest) != tt.rest || n.Type != tt.typ {
			t.Errorf("%q: %+v, rest %q, %v", tt.path, n, rest, err)
		}
	}
	if _, rest, err := Lookup([]string{"lan", "dchp", "on"}); err == nil || len(rest) != 2 {
		t.Errorf("an unknown word: %q %v", rest, err)
	}
}

func TestLinesAt(t *testing.T) {
	s := full(t)
	tests := map[string]string{
		"passthrough": "set passthrough pptp off\nset passthrough pptp ports 1723\nset passthrough l2tp on\nset passthrough l2tp ports 1701\n" +
			"set passthrough ipsec on\nset passthrough ipsec devices kids nas\nset passthrough ipsec servers vpn.example.com 198.51.100.0/24\nset passthrough ipsec copy on\n" +
			"set passthrough sstp on\nset passthrough openvpn on\nset passthrough wireguard on\n",
		"passthrough pptp":           "set passthrough pptp off\nset passthrough pptp ports 1723\n",
		"lan hosts":                  "set lan hosts nas mac 02:00:00:00:00:02 address 10.0.0.8\nset lan hosts phone mac 02:00:00:00:00:03\nset lan hosts tv mac 02:00:00:00:00:01 address 10.0.0.7\n",
		"lan hosts tv":               "set lan hosts tv mac 02:00:00:00:00:01 address 10.0.0.7\n",
		"lan hosts tv mac":           "set lan hosts tv mac 02:00:00:00:00:01 address 10.0.0.7\n",
		"lan hosts t":                "",
		"dns upstreams":              "set dns upstreams 9.9.9.9 1.1.1.1\n",
		"firewall forward none port": "",
	}
	for path, want := range tests {
		got, err := LinesAt(s, strings.Fields(path))
		if err != nil || text(got) != want {
			t.Errorf("%s: %v\n%s", path, err, cmp.Diff(want, text(got)))
		}
	}
	if all, err := LinesAt(s, nil); err != nil || len(all) != len(Lines(s)) {
		t.Errorf("no path: %d lines, %v", len(all), err)
	}
	for _, path := range []string{"lan x", "passthrough pptp off", "dns upstreams 9.9.9.9"} {
		if _, err := LinesAt(s, strings.Fields(path)); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestSplitAndQuote(t *testing.T) {
	for _, w := range []string{"", "plain", "two words", `a"b`, `a\b`, "it's", "tab\there", "ü", "#", `\"`} {
		got, err := Split("set " + Quote(w) + " end")
		if diff := cmp.Diff([]string{"set", w, "end"}, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", w, err, diff)
		}
	}
	for _, l := range []string{`"open`, `'open`, `"end\`} {
		if w, err := Split(l); err == nil {
			t.Errorf("%s: %q", l, w)
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]string{"12h": "12h", "90m": "1h30m", "7d": "7d", "48h": "2d", "36h": "36h", "2m": "2m", "61s": "1m1s", "3601s": "1h0m1s", "10m": "10m", "20h": "20h", "0s": "0s"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || d.String() != want {
			t.Errorf("%s reads as %s (%v), want %s", in, d, err, want)
		}
	}
	for _, in := range []string{"", "12", "1.5s", "xd", "-1d", "99999999999d", "1e9h", "300000h0m0s0d"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q reads as %s", in, d)
		}
	}
}

// The manual names every setting, and every node has help.
func TestReference(t *testing.T) {
	ref := Reference()
	var walk func(*Node, string)
	walk = func(n *Node, path string) {
		if n.Help == "" && n.Kind != Entry && path != "" {
			t.Errorf("%s has no help", path)
		}
		switch n.Kind {
		case Map:
			walk(n.Entry, path+" "+strings.ToUpper(strings.Trim(n.Entry.Name, "<>")))
		case Leaf, List:
			if !strings.Contains(ref, "| `"+path+"` |") {
				t.Errorf("the manual lacks %s", path)
			}
		}
		for _, c := range n.Children {
			walk(c, strings.TrimSpace(path+" "+c.Name))
		}
		if n.Kind == Entry || n.Kind == Area {
			for i := range n.typ.NumField() { // no field without a place in the schema
				if f := n.typ.Field(i); f.Tag.Get("json") == "" || f.Tag.Get("json") == "-" {
					t.Errorf("%s.%s has no json name", n.typ, f.Name)
				}
			}
		}
	}
	walk(root(), "")
	if reflect.TypeFor[Settings]().NumField() != len(root().Children)+1 {
		t.Error("an area is not in the schema")
	}
}
