// Package arch holds the architecture: who may import whom, with the reason in the failure.
package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/culvert-fw/culvert/"

type pkg struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
	Dir        string
}

// rule says what packages below From must not import, directly or (Deep) through others of ours.
type rule struct {
	from   []string // prefixes of our packages, without the module
	except []string // packages the rule is not for
	deny   []string // import paths; "x/..." means x and all below
	allow  []string // exceptions of deny
	deep   bool
	why    string
}

var (
	pure       = []string{"firmware/settings/...", "firmware/netstate/...", "firmware/ruleset/...", "firmware/facts/...", "firmware/plan/..."}
	netlinks   = []string{"github.com/vishvananda/netlink/...", "github.com/mdlayher/netlink/...", "github.com/mdlayher/genetlink/...", "github.com/google/nftables/..."}
	router     = []string{"firmware/...", "cmd/init", "cmd/netd", "cmd/edge", "board"}
	buildHosts = []string{"firmware/image/..."}
)

var rules = []rule{
	{
		from: pure, deny: append([]string{"os/...", "net/...", "syscall", "golang.org/x/...", "io/fs"}, netlinks...), allow: []string{"net/netip"}, deep: true,
		why: "settings, netstate, ruleset, facts and plan decide and do nothing: what they decide must depend on their arguments alone",
	},
	{
		from: []string{"firmware/kernel/..."}, deny: []string{module + "firmware/settings/...", module + "firmware/plan/..."}, deep: true,
		why: "kernel/* does what it is told in the words of netstate and ruleset; settings would let it decide",
	},
	{
		from: router, except: []string{"firmware/kernel/..."}, deny: netlinks,
		why: "only kernel/* talks to the kernel's configuration",
	},
	{
		from: router, except: []string{
			"firmware/kernel/...",
			"firmware/netd/...",        // puts the parts together
			"firmware/boot/...",        // the drop-all ruleset has to be there before netd
			"firmware/passthrough/...", // reads the session table
		},
		deny: []string{module + "firmware/kernel/..."},
		why:  "only reconcile calls kernel writers, through interfaces of its own that netd fills",
	},
	{
		from: router, except: buildHosts, deny: []string{"net/http/...", "html/template", "text/template", module + "firmware/image/...", module + "qemu/..."}, deep: true,
		why: "the router has little flash: these cost up to 0.5 MB each, and build code has no place there",
	},
}

func TestImportDirections(t *testing.T) {
	for _, v := range violations(load(t), rules) {
		t.Error(v)
	}
}

// TestRulesCatch breaks each rule in a made-up package: a rule that cannot fail proves nothing.
func TestRulesCatch(t *testing.T) {
	for i, r := range rules {
		from := module + strings.TrimSuffix(r.from[0], "/...") + "/made-up"
		if matches(r.except, strings.TrimPrefix(from, module)) {
			t.Fatalf("rule %d does not cover %s", i, from)
		}
		bad := strings.TrimSuffix(r.deny[0], "/...")
		if got := violations([]pkg{{ImportPath: from, Imports: []string{bad}}}, []rule{r}); len(got) != 1 {
			t.Errorf("rule %d: importing %s from %s gave %v", i, bad, from, got)
		}
	}
}

func TestRouterMainsAreThin(t *testing.T) {
	const most = 20
	for _, p := range load(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if name != "cmd/init" && name != "cmd/netd" && name != "cmd/edge" {
			continue
		}
		for _, f := range p.GoFiles {
			data, err := os.ReadFile(p.Dir + "/" + f)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(data, []byte("\n")); n > most {
				t.Errorf("%s/%s has %d lines, more than %d: the merged binary runs every main's package state at each start, so mains only call a package", name, f, n, most)
			}
		}
	}
}

func load(t *testing.T) []pkg {
	t.Helper()
	c := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,GoFiles,Dir", "./...")
	c.Dir = "../.."
	// What counts is what the router is built of.
	c.Env = append(os.Environ(), "GOOS=linux", "GOARCH=mips", "GOMIPS=softfloat", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

func violations(all []pkg, rules []rule) []string {
	byPath := map[string]pkg{}
	for _, p := range all {
		byPath[p.ImportPath] = p
	}
	var bad []string
	for _, r := range rules {
		for _, p := range all {
			name, ours := strings.CutPrefix(p.ImportPath, module)
			if !ours || !matches(r.from, name) || matches(r.except, name) {
				continue
			}
			for _, via := range reach(p, byPath, r.deep) {
				for _, imp := range via.pkg.Imports {
					if matches(r.deny, imp) && !matches(r.allow, imp) {
						bad = append(bad, fmt.Sprintf("%s%s imports %s: %s", name, via.path, imp, r.why))
					}
				}
			}
		}
	}
	slices.Sort(bad)
	return slices.Compact(bad)
}

type step struct {
	pkg  pkg
	path string
}

// reach lists p and, when deep, our packages that it reaches. Only imports of our own packages are
// followed: the standard library uses what it likes.
func reach(p pkg, byPath map[string]pkg, deep bool) []step {
	list := []step{{p, ""}}
	seen := map[string]bool{p.ImportPath: true}
	for i := 0; deep && i < len(list); i++ {
		for _, imp := range list[i].pkg.Imports {
			next, ours := byPath[imp]
			if ours && !seen[imp] {
				seen[imp] = true
				list = append(list, step{next, list[i].path + " -> " + strings.TrimPrefix(imp, module)})
			}
		}
	}
	return list
}

func matches(patterns []string, path string) bool {
	for _, p := range patterns {
		if tree, ok := strings.CutSuffix(p, "/..."); ok {
			if path == tree || strings.HasPrefix(path, tree+"/") {
				return true
			}
		} else if path == p {
			return true
		}
	}
	return false
}
