package netd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const boardJSON = `{"id":"test","name":"two veths","arch":{"goarch":"amd64"},"ram":64,"ports":{"lan":["lan0"],"wan":"wan0"},
"mac":"nic","console":{"device":"ttyS0","baud":115200},"watchdog":false,"rtc":true,"data":{"serial":"x"},"wifi":"no","cmdline":"x"}`

// testRouter is a netd on the real kernel, in the namespace of the test, between
// a LAN device and a provider.
type testRouter struct {
	t      *testing.T
	isp    *nstest.Peer // its isp0 is the other end of wan0
	pc     *nstest.Peer // its pc0 is the other end of lan0
	uplink *nstest.Daemon
	files  folders
	api    *api.Client
	cancel context.CancelFunc
	done   chan struct{}
}

// newRouter starts a router with the default settings after set commands, whose
// provider gives leases of a network such as "203.0.113", or none with "".
func newRouter(t *testing.T, net24 string, set ...string) *testRouter {
	t.Helper()
	nstest.Require(t, "nft", "dnsmasq", "nsenter")
	dir := t.TempDir()
	r := &testRouter{t: t, files: folders{data: dir + "/data", etc: dir + "/etc", run: dir + "/run"}}
	r.isp, r.pc = nstest.NewPeer(t, "wan0", "isp0"), nstest.NewPeer(t, "lan0", "pc0")
	if net24 != "" {
		r.provide(net24)
	}
	for _, d := range []string{r.files.data, r.files.etc, r.files.run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(r.files.etc, boardFile), []byte(boardJSON))
	write(filepath.Join(r.files.etc, versionFile), []byte("culvert v0-test\n"))
	initial := settings.Default()
	change(t, initial, set)
	initial.System.NTP.Servers = nil // this clock is the machine's
	initial.Firewall.Offload = false // the host's kernel may lack flowtables; the lab's has them
	write(filepath.Join(r.files.run, initialFile), settings.Export(initial, true))
	t.Cleanup(func() {
		nftables("delete", "table", "inet", "culvert")
		nftables("delete", "table", "ip", "culvert")
		exec.Command("ip", "link", "del", "br-lan").Run()
	})
	r.start()
	return r
}

// start runs netd; a second call is a restart.
func (r *testRouter) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel, r.done = cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		if err := run(ctx, r.files, slog.New(slog.NewTextHandler(testLog{r.t}, nil))); err != nil {
			r.t.Error(err)
		}
	}(r.done)
	r.t.Cleanup(r.stop)
	r.api = api.NewClient(filepath.Join(r.files.run, filepath.Base(api.Socket)))
	r.until("the API answers", func() error { return r.call(api.MethodHealth, nil, nil) })
}

func (r *testRouter) stop() {
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(10 * time.Second):
		r.t.Error("netd does not end within 10 s")
	}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func (r *testRouter) call(method string, params, result any) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 15*time.Second)
	defer cancel()
	return r.api.Call(ctx, method, params, result)
}

func (r *testRouter) until(what string, f func() error) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v", what, err)
		}
	}
}

func (r *testRouter) status() api.Status {
	r.t.Helper()
	var st api.Status
	if err := r.call(api.MethodStatus, nil, &st); err != nil {
		r.t.Fatal(err)
	}
	return st
}

// candidate is the running settings after set commands, and their revision.
func (r *testRouter) candidate(lines ...string) (*settings.Settings, int) {
	r.t.Helper()
	var have api.SettingsReply
	if err := r.call(api.MethodSettings, api.RevisionParams{}, &have); err != nil {
		r.t.Fatal(err)
	}
	s, problems := settings.Parse(have.Settings)
	if len(problems) > 0 {
		r.t.Fatal(problems)
	}
	change(r.t, s, lines)
	return s, have.Revision
}

// change carries out set commands.
func change(t *testing.T, s *settings.Settings, lines []string) {
	t.Helper()
	for _, l := range lines {
		if err := settings.Set(s, strings.Fields(l)); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *testRouter) commit(base int, s *settings.Settings, wait time.Duration) (api.CommitReply, error) {
	var reply api.CommitReply
	err := r.call(api.MethodCommit, api.CommitParams{
		Base: base, Settings: settings.Export(s, true), Author: api.Author{Via: "serial"}, Confirm: wait,
	}, &reply)
	return reply, err
}

func nftables(args ...string) string {
	out, _ := exec.Command("nft", args...).CombinedOutput()
	return string(out)
}

// home gives the computer at home these addresses and the router as its way out.
func (r *testRouter) home(addrs ...string) {
	r.t.Helper()
	for _, a := range addrs {
		r.pc.Run("ip", "addr", "add", a+"/24", "dev", "pc0")
	}
	r.pc.Run("ip", "route", "add", "default", "via", "192.168.1.1")
}

// provide starts the provider's DHCP server.
func (r *testRouter) provide(net24 string) {
	r.isp.Run("ip", "addr", "add", net24+".1/24", "dev", "isp0")
	r.uplink = r.isp.Start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts", "--port=0",
		"--interface=isp0", "--bind-interfaces", "--dhcp-range="+net24+".50,"+net24+".60,10m", "--dhcp-leasefile="+r.t.TempDir()+"/leases",
		"--dhcp-option=option:router,"+net24+".1", "--dhcp-option=option:dns-server,"+net24+".1", "--log-facility=-")
}

func (r *testRouter) online() {
	r.t.Helper()
	r.until("the WAN's lease", func() error {
		if st := r.status(); !st.WAN.Address.IsValid() {
			return errors.New(strings.Join(st.Problems, " "))
		}
		return nil
	})
}

// TestLife takes netd from its first start over commits to a restart.
func TestLife(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	if !strings.Contains(nftables("list", "ruleset"), "203.0.113.") {
		t.Error("the ruleset does not know the WAN's address")
	}
	s, base := r.candidate("firewall forward web protocol tcp port 8080 to 192.168.1.10")
	first, err := r.commit(base, s, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(nftables("list", "map", "inet", "culvert", "forwards"), ": 192.168.1.10 . 8080") {
		t.Errorf("the kernel has no forward:\n%s", nftables("list", "ruleset"))
	}
	// A second admin who started from the same revision is told what changed.
	s.System.Hostname = "attic"
	_, err = r.commit(base, s, 0)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != "conflict" || len(e.Changed) == 0 || !strings.Contains(strings.Join(e.Changed, "\n"), "8080") || e.By == "" {
		t.Errorf("conflict is %+v", err)
	}
	// Who turns a switch off is told what it cannot see.
	off, base := r.candidate("passthrough l2tp off")
	reply, err := r.commit(base, off, 0)
	if err != nil || !slices.Contains(reply.Notes, "Refuses L2TP that is not inside IPsec; for L2TP/IPsec turn off ipsec") {
		t.Errorf("l2tp off: %+v %v", reply, err)
	}
	first = reply
	// Bad settings change nothing.
	bad, base := r.candidate()
	bad.LAN.DHCP.Start = 300
	if _, err := r.commit(base, bad, 0); !errors.As(err, &e) || e.Code != "invalid" || len(e.Problems) == 0 {
		t.Errorf("invalid settings: %v", err)
	}
	if st := r.status(); st.Revision != first.Revision {
		t.Errorf("revision %d runs, want %d", st.Revision, first.Revision)
	}
	address := r.status().WAN.Address
	before := nftables("list", "ruleset")
	r.stop()
	r.start()
	// At once, before any DHCP server has answered: nothing may be cut.
	if st := r.status(); st.WAN.Address != address || st.Revision != first.Revision {
		t.Errorf("after the restart: WAN %s revision %d, want %s and %d", st.WAN.Address, st.Revision, address, first.Revision)
	}
	if after := nftables("list", "ruleset"); after != before {
		t.Errorf("the ruleset changed over a restart:\n%s\nbefore:\n%s", after, before)
	}
}

// TestConfirm: a commit that nobody confirms goes back, and so does a crash.
func TestConfirm(t *testing.T) {
	r := newRouter(t, "203.0.113")
	s, base := r.candidate("system hostname attic")
	reply, err := r.commit(base, s, time.Second)
	if err != nil || reply.ConfirmIn == 0 {
		t.Fatalf("commit confirm: %+v %v", reply, err)
	}
	r.until("the roll-back and its note", func() error {
		st := r.status()
		if st.Hostname != "culvert" || !strings.Contains(strings.Join(st.Problems, "\n"), "was not confirmed") {
			return fmt.Errorf("hostname is %s, people are told %q", st.Hostname, st.Problems)
		}
		return nil
	})
	s, base = r.candidate("system hostname cellar")
	if _, err := r.commit(base, s, time.Minute); err != nil {
		t.Fatal(err)
	}
	if told := strings.Join(r.status().Problems, "\n"); strings.Contains(told, "was not confirmed") {
		t.Errorf("after another commit people are still told %q", told)
	}
	r.stop()
	r.start()
	if st := r.status(); st.Hostname != "culvert" {
		t.Errorf("after a crash the unconfirmed revision runs: %s", st.Hostname)
	}
	s, base = r.candidate("system hostname barn")
	if _, err := r.commit(base, s, time.Minute); err != nil {
		t.Fatal(err)
	}
	other := api.Author{Via: "ssh", Addr: netip.MustParseAddr("192.168.1.5"), Conn: &api.Conn{}}
	if err := r.call(api.MethodConfirm, other, nil); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start()
	// The history tells who: not always the one who committed.
	var history []api.Revision
	if err := r.call(api.MethodHistory, nil, &history); err != nil {
		t.Fatal(err)
	}
	for _, v := range history {
		other.Conn = nil
		confirmed := v.N == history[0].N
		if confirmed != (v.ConfirmedBy != nil && *v.ConfirmedBy == other && v.Author.Via == "serial" && v.Note == "Confirmed by ssh from 192.168.1.5.") {
			t.Errorf("history tells %+v", v)
		}
	}
	if st := r.status(); st.Hostname != "barn" {
		t.Errorf("a confirmed revision is lost over a restart: %s", st.Hostname)
	}
}

// TestOwner: the first claim wins, secrets stay inside, the last way to log in
// stays.
func TestOwner(t *testing.T) {
	r := newRouter(t, "203.0.113")
	const hash = "$argon2id$v=19$m=8192,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"
	claim := func() error {
		return r.call(api.MethodClaim, api.ClaimParams{Password: hash, Author: api.Author{Via: "serial"}}, nil)
	}
	if err := claim(); err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	if err := claim(); !errors.As(err, &e) || e.Code != "denied" {
		t.Errorf("a second claim: %v", err)
	}
	var notes api.LoginNotes
	if err := r.call(api.MethodLoginNote, api.Author{Via: "serial"}, &notes); err != nil || notes.Claim == nil || notes.Claim.With != "password" {
		t.Errorf("login notes %+v, %v", notes, err)
	}
	var have api.SettingsReply
	if err := r.call(api.MethodSettings, api.RevisionParams{}, &have); err != nil || strings.Contains(string(have.Settings), "argon2id") {
		t.Errorf("the hash leaves netd: %s %v", have.Settings, err)
	}
	// A candidate with "(set)" keeps the password, and so does one without it.
	s, base := r.candidate("system hostname attic")
	if reply, err := r.commit(base, s, 0); err != nil || len(reply.Notes) > 0 {
		t.Fatalf("%+v %v", reply, err)
	}
	s, base = r.candidate()
	s.System.Admin.Password = ""
	if reply, err := r.commit(base, s, 0); err != nil || len(reply.Notes) == 0 {
		t.Fatalf("nobody is told that the password stays: %+v %v", reply, err)
	}
	if !r.status().Claimed {
		t.Error("a commit took the owner away")
	}
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4CZ8sXxl7RCBXJfGnBEaUqzrrDpLBe0L9oGGzCqPf1 admin@desk"
	if err := r.call(api.MethodAddKey, api.KeyParams{Key: key}, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.call(api.MethodAddKey, api.KeyParams{Key: key}, nil); err == nil {
		t.Error("the same key was added twice")
	}
	if err := r.call(api.MethodRemoveKey, api.KeyParams{Key: key}, nil); err != nil {
		t.Error(err)
	}
}
