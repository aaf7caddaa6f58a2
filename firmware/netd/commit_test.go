package netd

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestStarted: what a commit starts goes on after its session.
func TestStarted(t *testing.T) {
	r := newRouter(t, "", "wan mode static", "wan static address 203.0.113.9/24", "wan static gateway 203.0.113.1", "dns upstreams 203.0.113.1")
	s, base := r.candidate("wan mode dhcp")
	if _, err := r.commit(base, s, 0); err != nil {
		t.Fatal(err)
	}
	r.provide("203.0.113") // only now there is a server to find
	r.online()
}

// TestSwitch: a new plan in the middle of a commit takes nothing back.
func TestSwitch(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	s, base := r.candidate("wan mode static", "wan static address 203.0.113.9/24", "wan static gateway 203.0.113.1", "dns upstreams 203.0.113.1")
	if _, err := r.commit(base, s, 0); err != nil {
		t.Fatal(err)
	}
	if st := r.status(); st.WAN.Address.String() != "203.0.113.9/24" {
		t.Errorf("static WAN: %+v", st.WAN)
	}
	for range 3 {
		s, base = r.candidate("wan mode dhcp")
		if _, err := r.commit(base, s, 0); err != nil {
			t.Fatal(err)
		}
		r.online()
		s, base = r.candidate("wan mode static")
		if _, err := r.commit(base, s, 0); err != nil {
			t.Fatal(err)
		}
		if out, _ := exec.Command("ip", "-4", "addr", "show", "dev", "wan0").Output(); !strings.Contains(string(out), "203.0.113.9/24") {
			t.Fatalf("static is committed, the kernel has:\n%s", out)
		}
	}
}

// TestPreview: an admin whose session a commit may cut is told before it, and
// asking changes nothing.
func TestPreview(t *testing.T) {
	r := newRouter(t, "203.0.113")
	s, base := r.candidate("lan address 192.168.5.1/24")
	p := api.CommitParams{Base: base, Settings: settings.Export(s, true), Preview: true, Author: api.Author{Via: "ssh", Conn: &api.Conn{
		Local: netip.MustParseAddrPort("192.168.1.1:22"), Remote: netip.MustParseAddrPort("192.168.1.100:40000"),
	}}}
	var reply api.CommitReply
	if err := r.call(api.MethodCommit, p, &reply); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(reply.Notes, " "); !strings.Contains(text, "192.168.5.1") || !strings.Contains(text, "2m0s") {
		t.Errorf("told %q", text)
	}
	if st := r.status(); st.Revision != base || st.LAN.Address.String() != "192.168.1.1/24" {
		t.Errorf("the question changed something: %+v", st.LAN)
	}
	p.Preview = false
	if err := r.call(api.MethodCommit, p, &reply); err != nil || reply.ConfirmIn == 0 {
		t.Errorf("the commit does not wait for confirm: %+v %v", reply, err)
	}
}

// TestByHand: a LAN address that was only tried is not one that a person chose.
func TestByHand(t *testing.T) {
	r := newRouter(t, "203.0.113")
	byHand := func() bool {
		b, err := os.ReadFile(filepath.Join(r.files.data, databaseFile))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(b), string(keyByHand))
	}
	s, base := r.candidate("lan address 192.168.5.1/24")
	if _, err := r.commit(base, s, time.Second); err != nil {
		t.Fatal(err)
	}
	r.until("the roll-back", func() error {
		if st := r.status(); st.LAN.Address.String() != "192.168.1.1/24" || st.Revision != base {
			return fmt.Errorf("revision %d, LAN %s", st.Revision, st.LAN.Address)
		}
		return nil
	})
	if byHand() {
		t.Error("an address that was never confirmed counts as chosen")
	}
	s, base = r.candidate("lan address 192.168.5.1/24")
	if _, err := r.commit(base, s, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := r.call(api.MethodConfirm, api.Author{Via: "serial"}, nil); err != nil {
		t.Fatal(err)
	}
	if !byHand() {
		t.Error("a confirmed address does not count as chosen")
	}
}

// TestMoved: a person whose LAN moved by itself configures it where it is.
func TestMoved(t *testing.T) {
	r := newRouter(t, "192.168.1")
	r.online()
	if st := r.status(); st.LAN.Address.String() != "192.168.77.1/24" || !st.LAN.Moved {
		t.Fatalf("the LAN did not move: %+v", st.LAN)
	}
	s, base := r.candidate("firewall forward web port 8080 to 192.168.77.10")
	if _, err := r.commit(base, s, 0); err != nil {
		t.Fatal(err)
	}
	if m := nftables("list", "map", "inet", "culvert", "forwards"); !strings.Contains(m, ": 192.168.77.10 . 8080") {
		t.Errorf("the kernel has no forward:\n%s", m)
	}
	// Neither a commit nor going back to settings that never said where the LAN
	// is takes it back.
	for _, what := range []string{"the commit", "a rollback"} {
		if st := r.status(); st.LAN.Address.String() != "192.168.77.1/24" || !st.WAN.Address.IsValid() {
			t.Errorf("after %s: %+v %+v", what, st.LAN, st.WAN)
		}
		if err := r.call(api.MethodRollback, api.RollbackParams{N: base, Author: api.Author{Via: "serial"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
}
