package firewall_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// loader applies tables in a namespace as netd does: observe, then from there.
type loader struct {
	ns      *nettest.NS
	offload bool // the kernel has flowtables
	// timeouts replace those of learned sets: what is short in the field has to
	// last while a test looks.
	timeouts map[string]time.Duration
}

func newLoader(t *testing.T, ns *nettest.NS) *loader {
	t.Helper()
	l := &loader{ns: ns}
	ns.Do(func() { l.offload = nft.New(nft.Options{}).ProbeFlowtable() == nil })
	if !l.offload {
		t.Log("missing capability: flowtables in this kernel; without offload here")
	}
	return l
}

func (l *loader) apply(t *testing.T, in firewall.Input) *ruleset.Table {
	t.Helper()
	if !l.offload {
		in.Settings = in.Settings.Clone()
		in.Settings.Firewall.Offload = false
	}
	table, _ := firewall.Ruleset(in)
	for name, d := range l.timeouts {
		if s := table.IP.Set(name); s != nil {
			s.Timeout = d
		}
	}
	var err error
	l.ns.Do(func() {
		c := nft.New(nft.Options{})
		var have *ruleset.Table
		if have, err = c.Observe(); err == nil {
			err = c.Apply(have, table)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestGoldensOnKernel loads every golden one after the other, starting from
// init's drop-all, and lets nft list what is there.
func TestGoldensOnKernel(t *testing.T) {
	nettest.Need(t, "nft")
	ns := nettest.New(t)
	ns.Run(t, "ip link add br-lan type bridge\nip link add eth1 type veth peer name peer")
	l := newLoader(t, ns)
	var err error
	ns.Do(func() { err = nft.DropAll() })
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, facts := settings.Default(), ""
			for _, f := range a.Files {
				switch f.Name {
				case "commands", "then":
					configure(t, s, string(f.Data))
				case "facts", "later":
					facts = string(f.Data)
				}
			}
			table := l.apply(t, input(t, s, facts))
			var have *ruleset.Table
			ns.Do(func() { have, err = nft.New(nft.Options{}).Observe() })
			if err != nil {
				t.Fatal(err)
			}
			if d := ruleset.Diff(table, have); len(d) > 0 {
				t.Errorf("not settled:\n%s", strings.Join(d, "\n"))
			}
			listing := ns.Run(t, "nft -s list table inet culvert")
			if table.IP != nil {
				listing += ns.Run(t, "nft -s list table ip culvert")
			}
			if d := cmp.Diff(nettest.NormalListing(table.Text()), nettest.NormalListing(listing)); d != "" {
				t.Errorf("nft lists something else (-ours +nft's):\n%s", d)
			}
			// nft does not read back what it lists of table ip: parts of a header
			// in a concatenation are integers to it, not the set's type.
			inet := *table
			inet.IP = nil
			if out, err := ns.Output(inet.Text(), "nft", "-c", "-f", "-"); err != nil {
				t.Errorf("nft does not read our text: %v\n%s", err, out)
			}
		})
	}
}

// TestPure: the plan needs no kernel, no files and no network.
func TestPure(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}", ".", "../passthrough", "../../ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if slices.Contains([]string{"net", "net/http", "os/exec"}, p) || strings.Contains(p, "netlink") || strings.Contains(p, "/kernel/") {
			t.Errorf("depends on %s", p)
		}
	}
}
