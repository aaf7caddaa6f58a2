package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func quietMachine(out *bytes.Buffer) *machine {
	o := Default()
	o.Console = out
	return newMachine(o)
}

func TestPhasesFollowTheirPolicies(t *testing.T) {
	step := func(name string, p policy, always bool, err error, ran *[]string) phase {
		return phase{name, p, always, func(*machine) error {
			*ran = append(*ran, name)
			return err
		}}
	}
	bad := errors.New("it broke")
	for _, tc := range []struct {
		name         string
		list         func(ran *[]string) []phase
		want, failed string
		problems     []string
	}{
		{"in order", func(r *[]string) []phase {
			return []phase{step("A", fatal, false, nil, r), step("B", warn, false, nil, r)}
		}, "A B", "", nil},
		{"a warning goes on", func(r *[]string) []phase {
			return []phase{step("A", warn, false, bad, r), step("B", fatal, false, nil, r)}
		}, "A B", "", []string{"A: it broke."}},
		{"a fatal one skips all but what keeps the router closed", func(r *[]string) []phase {
			return []phase{step("A", fatal, false, bad, r), step("B", warn, false, nil, r), step("Firewall", fatal, true, bad, r), step("C", fatal, false, nil, r)}
		}, "A Firewall", "A: it broke.", []string{"A: it broke.", "Firewall: it broke."}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			var ran []string
			m := quietMachine(&out)
			m.runPhases(tc.list(&ran))
			if got := strings.Join(ran, " "); got != tc.want {
				t.Errorf("ran %s, want %s", got, tc.want)
			}
			if m.failed != tc.failed {
				t.Errorf("failed: %q, want %q", m.failed, tc.failed)
			}
			if d := cmp.Diff(tc.problems, m.problems); d != "" {
				t.Error(d)
			}
			for _, p := range tc.problems {
				if !strings.Contains(out.String(), "culvert: "+p+"\r\n") {
					t.Errorf("the console lacks %q:\n%s", p, out.String())
				}
			}
		})
	}
}

// The router fails closed: nothing before the drop-all ruleset touches a link,
// and no failure of an earlier phase skips it.
func TestFirewallComesBeforeAnyLink(t *testing.T) {
	at := map[string]int{}
	for i, p := range phases() {
		at[p.name] = i
		if p.name == "Firewall" && (p.policy != fatal || !p.always) {
			t.Errorf("the firewall's phase is %+v", p)
		}
	}
	for _, later := range []string{"Loopback", "Data"} {
		if at[later] == 0 || at[later] < at["Firewall"] {
			t.Errorf("phase %s is number %d, the firewall number %d", later, at[later], at["Firewall"])
		}
	}
	if at["Kernel settings"] > at["Firewall"] {
		t.Error("IPv6 is turned off only after the firewall")
	}
}

func TestReadSettings(t *testing.T) {
	pad := func(s string, n int) string { return s + strings.Repeat("\x00", n) }
	for _, tc := range []struct{ name, in, want, err string }{
		{"padded to a sector", pad(`{"a":1}`+"\n", 505), `{"a":1}`, ""},
		{"not padded", `{"a":1}`, `{"a":1}`, ""},
		{"on a large disk", pad(`{}`, 2<<20), `{}`, ""},
		{"only NULs", pad("", 4096), "", ""},
		{"empty", "", "", ""},
		{"not JSON", pad("hello", 10), "", "not a JSON object"},
		{"not an object", "[1]", "", "not a JSON object"},
		{"cut off", `{"a":`, "", "not a JSON object"},
		{"NUL inside", "{\"a\":\x001}", "", "behind the first NUL"},
		{"too long", `{"a":"` + strings.Repeat("x", maxSettings) + `"}`, "", "longer than 256 KiB"},
		{"as long as allowed", `{"a":"` + strings.Repeat("x", maxSettings-8) + `"}`, `{"a":"` + strings.Repeat("x", maxSettings-8) + `"}`, ""},
	} {
		got, err := readSettings(strings.NewReader(tc.in))
		if string(got) != tc.want {
			t.Errorf("%s: %.80q, want %.80q", tc.name, got, tc.want)
		}
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.err)
		}
	}
}

func TestInitialSettingsPreferTheDisk(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	var out bytes.Buffer
	m := quietMachine(&out)
	m.o.Baked, m.o.Initial, m.o.SysBlock = filepath.Join(dir, "baked"), filepath.Join(dir, "initial"), filepath.Join(dir, "block")
	result := func() string {
		t.Helper()
		if err := m.initialSettings(); err != nil {
			t.Fatal(err)
		}
		b, _ := os.ReadFile(m.o.Initial)
		return string(b)
	}
	if got := result(); got != "" {
		t.Errorf("without any: %q", got)
	}
	write("baked", `{"from":"image"}`)
	if got := result(); got != `{"from":"image"}` {
		t.Errorf("baked: %q", got)
	}
	m.hw.SettingsDisk.Path = write("disk", `{"from":"disk"}`+"\x00\x00")
	if got := result(); got != `{"from":"disk"}` {
		t.Errorf("disk: %q", got)
	}
	st, err := os.Stat(m.o.Initial)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600: it may hold keys", st.Mode())
	}
}

func TestFindDisk(t *testing.T) {
	dir := t.TempDir()
	for name, serial := range map[string]string{"vda": "culvert-root\n", "vdb": "culvert-data\n", "vdc": ""} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if serial != "" {
			if err := os.WriteFile(filepath.Join(dir, name, "serial"), []byte(serial), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for d, want := range map[Disk]string{
		{Serial: "culvert-data"}: "/dev/vdb", {Serial: "culvert-dat"}: "", {}: "",
		{Path: dir}: dir, {Path: dir + "/none"}: "",
	} {
		if got := findDisk(dir, d); got != want {
			t.Errorf("findDisk(%+v) = %q, want %q", d, got, want)
		}
	}
}

func TestLoadHardware(t *testing.T) {
	hw, err := loadHardware("../../board/qemu-mips/board.json")
	if err != nil {
		t.Fatal(err)
	}
	want := Hardware{
		Board: "qemu-mips", Console: "/dev/ttyS0", Watchdog: true,
		DataDisk: Disk{Serial: "culvert-data"}, SettingsDisk: Disk{Serial: "culvert-settings"},
		Quirks: hw.Quirks,
	}
	if len(hw.Quirks) != 2 || hw.Quirks[0].Offset != 0x4d1 || hw.Quirks[0].Bytes()[0] != 1<<2|1<<3 {
		t.Errorf("quirks %+v, want IRQ 10 and 11 level-triggered (ELCR2 of the PIIX4) first", hw.Quirks)
	}
	if d := cmp.Diff(want, hw); d != "" {
		t.Error(d)
	}
}

func TestParseKmsg(t *testing.T) {
	at, text, ok := parseKmsg("6,339,5140900,-;NET: Registered; protocol family\n SUBSYSTEM=net\n")
	if !ok || at != 5140900*time.Microsecond || text != "NET: Registered; protocol family" {
		t.Errorf("%v %q %v", at, text, ok)
	}
	for _, bad := range []string{"", "x", "6,1;x", "6,1,x,-;text"} {
		if _, _, ok := parseKmsg(bad); ok {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	got := parseCmdline("console=ttyS0,115200 quiet culvert.test root=/dev/vda=1\n")
	want := map[string]string{"console": "ttyS0,115200", "quiet": "", "culvert.test": "", "root": "/dev/vda=1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestJudge plays checks every 10 s: "." answered, "x" not.
func TestJudge(t *testing.T) {
	h := Health{Grace: 120 * time.Second, KillAfter: 60 * time.Second, StopAfter: 120 * time.Second}
	for _, tc := range []struct {
		name   string
		dog    bool
		checks string
		want   string // f: fed, K: fed and killed, -: not fed
	}{
		{"healthy", true, "......", "ffffff"},
		{"slow start", true, "xxxxxxxxxxx..", "fffffffffffff"},
		{"never starts", true, "xxxxxxxxxxxxxxxxxxxxx", "ffffffffffffKfffff---"},
		{"short gap", true, "..xxxxxx..", "ffffffffff"},
		{"killed once, comes back", true, "..xxxxxxxx...", "ffffffffKffff"},
		{"killed once, and again much later", true, ".xxxxxxx.xxxxxxx", "fffffffKfffffffK"},
		{"does not come back", true, ".xxxxxxxxxxxxxxxx", "fffffffKfffff----"},
		{"comes back at last", true, ".xxxxxxxxxxxxxx..", "fffffffKfffff--ff"},
		{"no watchdog: killed again and again", false, ".xxxxxxxxxxxxxxxxxxxxxx", "fffffffKffffffffffffKff"},
	} {
		now := 3 * time.Second
		j := newJudge(h, tc.dog, now)
		var got strings.Builder
		for _, c := range tc.checks {
			now += 10 * time.Second
			feed, kill := j.step(now, c == '.')
			switch {
			case kill:
				got.WriteByte('K')
			case feed:
				got.WriteByte('f')
			default:
				got.WriteByte('-')
			}
		}
		if got.String() != tc.want {
			t.Errorf("%s:\nchecks %s\ngot    %s\nwant   %s", tc.name, tc.checks, got.String(), tc.want)
		}
	}
}

func TestCheckHealth(t *testing.T) {
	for answer, want := range map[string]string{
		`{"id":1,"result":null}` + "\n":                    "",
		`{"id":1}` + "\n":                                  "",
		`{"id":1,"error":null}` + "\n":                     "",
		`{"id":1,"error":{"text":"loop is stuck"}}` + "\n": "loop is stuck",
		`{"id":2}` + "\n":                                  "answer to request 2",
		"garbage\n":                                        "bad answer",
		"":                                                 "EOF",
		"hang":                                             "timeout",
	} {
		sock := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		held := make(chan net.Conn, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 100)
			n, _ := c.Read(buf)
			if got := string(buf[:n]); got != "{\"id\":1,\"method\":\"health\"}\n" {
				fmt.Fprintf(c, "unexpected request %q\n", got)
			}
			if answer == "hang" {
				held <- c
				return
			}
			_, _ = c.Write([]byte(answer))
			c.Close()
		}()
		limit := 10 * time.Second
		if answer == "hang" {
			limit = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		err = checkHealth(ctx, sock)
		cancel()
		l.Close()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("answer %q: error %v, want %q", answer, err, want)
		}
	}
}

func TestMixSeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed")
	var seen []string
	for range 3 {
		if err := mixSeed(path); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) != seedSize {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		for _, s := range seen {
			if s == string(b) {
				t.Error("the same seed twice")
			}
		}
		seen = append(seen, string(b))
	}
}
