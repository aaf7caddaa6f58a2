package lab

import (
	"crypto/ed25519"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// Addresses of the lab. The router's WAN lease comes from ISP's pool.
const (
	WANPrefix = "203.0.113.0/24"
	ISP       = "203.0.113.1"
	Stranger  = "203.0.113.77" // the test itself, on the WAN
	Admin     = "192.168.1.5"  // the test itself, on the LAN
	Server1   = "198.51.100.10"
	Server2   = "198.51.100.11"
)

// Config says what to start.
type Config struct {
	Board string // default qemu-mips
	MemMB int    // default 64
	// Settings are the router's initial ones; nil is a fresh, unclaimed router.
	// The lab's key is added to them.
	Settings *settings.Settings
	NoKey    bool   // leave the lab's key out: nobody owns the router
	Peers    bool   // also start the peers
	NoUplink bool   // no DHCP server on the WAN until Lab.Uplink
	NoBoot   bool   // leave the router off until Lab.Boot
	Data     []byte // what is on the data disk at first; nil is a new one
	Scan     string // an address to scan from the Internet from power-on, see Scanned
	// Clients are the names of the LAN hosts; default c1, c2 and c3.
	Clients []string
	// Stop ends what waits for something when it is closed; nil is never.
	Stop <-chan struct{}
}

// Lab is a running lab as one test sees it: what fails, fails that test.
type Lab struct {
	*setup
	t T
}

// setup is what the tests of one lab share.
type setup struct {
	NS         *Namespace
	Router     *Router
	Peers      *peers.Client
	C          []*peers.Host // LAN hosts, see Config.Clients; without an address at first
	ISP        *peers.Host   // the router's uplink: DHCP, DNS, routing to the servers
	S1, S2     *peers.Host   // servers behind the ISP
	NAT        *peers.Host   // the stock Linux in the router's place, see NewControl
	Key        ssh.Signer    // the admin's key
	LANAddress string        // where SSH is dialled

	owner        T // the test that the lab belongs to
	cfg          Config
	top, dir     string
	vmrun        string
	dataFile     string
	settingsFile string
	extra        []string // arguments for vmrun, see VMRun
	uml          *peers.UML
	uplink       *peers.Process
	boots        int
	addrs        map[string]string // leases of LAN hosts by host name
	mu           sync.Mutex
	hostKey      ssh.PublicKey
	scan         *scanner
}

// For is the same lab for a subtest, which fails instead of its parent.
func (l *Lab) For(t T) *Lab { return &Lab{setup: l.setup, t: t} }

// New starts a lab; it ends with the test. When the test failed, the consoles
// of the router and of the peers are printed.
func New(t T, cfg Config) *Lab {
	t.Helper()
	l := newLab(t, cfg)
	l.require()
	l.makeKey()
	l.vmrun = l.build("cmd/vmrun")
	l.dataFile = filepath.Join(l.dir, "data.img")
	if cfg.Data != nil {
		l.check(os.WriteFile(l.dataFile, cfg.Data, 0o600))
	}
	l.writeSettings()
	l.network()
	t.Cleanup(l.report)
	if cfg.Peers {
		l.startPeers()
	}
	if cfg.Scan != "" {
		l.startScan(cfg.Scan)
	}
	if !cfg.NoBoot {
		l.Boot()
	}
	return l
}

// require skips the test when there is no image or no peers.
func (l *Lab) require() {
	l.t.Helper()
	l.needs("out/" + l.cfg.Board + "/manifest.json")
	if l.cfg.Peers {
		l.needs("out/peers/linux", "out/peers/root")
	}
}

// newLab is a lab in which nothing runs yet.
func newLab(t T, cfg Config) *Lab {
	if cfg.Board == "" {
		cfg.Board = "qemu-mips"
	}
	if cfg.MemMB == 0 {
		cfg.MemMB = 64
	}
	if cfg.Clients == nil {
		cfg.Clients = []string{"c1", "c2", "c3"}
	}
	return &Lab{t: t, setup: &setup{owner: t, cfg: cfg, dir: t.TempDir(), LANAddress: "192.168.1.1", addrs: map[string]string{}}}
}

// Boot starts the router (again).
func (l *Lab) Boot() {
	l.t.Helper()
	r, err := l.startRouter()
	l.check(err)
	l.Router = r
	owner := l.For(l.owner) // it outlives the step that boots it
	l.owner.Cleanup(func() {
		owner.reportRouter(r)
		r.Stop()
	})
}

// check ends the test on an error.
func (l *Lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// needs skips the test, naming what is missing; in CI that is a failure.
func (l *Lab) needs(files ...string) {
	l.t.Helper()
	missing := func(what string) {
		if os.Getenv("CI") != "" {
			l.t.Fatalf("missing: %s", what)
		}
		l.t.Skipf("missing: %s", what)
	}
	if os.Getuid() != 0 {
		missing("root (network namespaces and taps)")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing("/dev/net/tun")
	}
	var err error
	l.top, err = top()
	l.check(err)
	for _, p := range files {
		if _, err := os.Stat(filepath.Join(l.top, p)); err != nil {
			missing(p + " (make test builds it)")
		}
	}
}

func (l *Lab) makeKey() {
	_, priv, err := ed25519.GenerateKey(nil)
	l.check(err)
	l.Key, err = ssh.NewSignerFromKey(priv)
	l.check(err)
}

func (l *Lab) writeSettings() {
	if l.cfg.Settings == nil {
		return
	}
	s := l.cfg.Settings
	if !l.cfg.NoKey {
		s.System.Admin.Keys = append(s.System.Admin.Keys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(l.Key.PublicKey()))))
	}
	b := settings.Export(s, true)
	l.settingsFile = filepath.Join(l.dir, "settings.json")
	l.check(os.WriteFile(l.settingsFile, b, 0o600))
}

// network makes the namespace, a bridge a side with the taps of router and
// peers, and the test's own addresses on both.
func (l *Lab) network() {
	ns, err := NewNamespace()
	l.check(err)
	l.NS = ns
	l.t.Cleanup(func() { ns.Close() })
	for _, line := range []string{
		"ip link add lan type bridge forward_delay 0 mcast_snooping 0",
		"ip link add wan type bridge forward_delay 0 mcast_snooping 0",
		"ip tuntap add rlan mode tap", "ip tuntap add rwan mode tap",
		"ip tuntap add plan mode tap", "ip tuntap add pwan mode tap", "ip tuntap add pmgmt mode tap",
		"ip link set rlan master lan up", "ip link set plan master lan up",
		"ip link set rwan master wan up", "ip link set pwan master wan up",
		"ip addr add " + Admin + "/24 dev lan", "ip addr add " + Stranger + "/24 dev wan",
		"ip addr add 10.254.0.1/24 dev pmgmt",
		"ip link set lan up", "ip link set wan up", "ip link set pmgmt up",
	} {
		l.check(ns.Exec(strings.Fields(line)...))
	}
}

// startPeers boots the peers and wires their hosts.
func (l *Lab) startPeers() {
	l.t.Helper()
	root, err := filepath.EvalSymlinks(filepath.Join(l.top, "out/peers/root"))
	l.check(err)
	cfg := peers.Config{
		Kernel: filepath.Join(l.top, "out/peers/linux"), Root: root, Agent: l.build("qemu/agent"),
		Dir: l.dir, Taps: []string{"plan", "pwan", "pmgmt"}, MemMB: 1024,
	}
	l.check(l.NS.Do(func() error {
		l.uml, err = peers.Start(cfg)
		return err
	}))
	l.t.Cleanup(l.uml.Stop)
	l.Peers = l.dialAgent()
	go func() { // what waits for an answer must not wait for a machine that is gone
		<-l.uml.Done()
		l.Peers.Close()
	}()
	l.wire()
}

// dialAgent waits until the peers' agent answers.
func (l *Lab) dialAgent() *peers.Client {
	l.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		conn, err := l.NS.Dial(net.Dialer{Timeout: time.Second}, "tcp4", peers.AgentAddr)
		if err == nil {
			return peers.NewClient(conn)
		}
		select {
		case <-l.uml.Done():
			l.t.Fatal("the peers' machine ended")
		case <-l.cfg.Stop:
			l.t.Fatal("stopped while the peers boot")
		case <-time.After(50 * time.Millisecond): // its boot has no event on this side
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the peers' agent does not answer: %v", err)
		}
	}
}

func (l *Lab) wire() {
	l.t.Helper()
	host := func(name string) *peers.Host {
		h, err := l.Peers.NewHost(name)
		l.check(err)
		return h
	}
	m := l.Peers.Machine()
	l.sh(m, `
for b in blan bwan bsrv; do ip link add $b type bridge forward_delay 0 mcast_snooping 0; ip link set $b up; done
ip link set vec0 master blan up
ip link set vec1 master bwan up`)
	for _, name := range l.cfg.Clients {
		h := host(name)
		l.plug(h, "blan", "eth0")
		l.C = append(l.C, h)
	}
	l.ISP, l.S1, l.S2 = host("isp"), host("s1"), host("s2")
	l.plug(l.ISP, "bwan", "eth0")
	l.plug(l.ISP, "bsrv", "eth1")
	l.plug(l.S1, "bsrv", "eth0")
	l.plug(l.S2, "bsrv", "eth0")
	l.sh(l.ISP, "ip addr add 198.51.100.1/24 dev eth1; echo 1 > /proc/sys/net/ipv4/ip_forward")
	l.sh(l.S1, "ip addr add "+Server1+"/24 dev eth0; ip route add default via 198.51.100.1")
	l.sh(l.S2, "ip addr add "+Server2+"/24 dev eth0; ip route add default via 198.51.100.1")
	if !l.cfg.NoUplink {
		l.Uplink("203.0.113")
	}
}

// plug connects a host's new network device to a bridge of the peers' machine.
func (l *Lab) plug(h *peers.Host, bridge, dev string) {
	l.t.Helper()
	port := h.Name + "-" + dev
	l.sh(l.Peers.Machine(), fmt.Sprintf("ip link add %s type veth peer name %s netns %d; ip link set %s master %s up", port, dev, h.PID, port, bridge))
	l.sh(h, "ip link set "+dev+" up")
}

// sh runs a script in a host and ends the test when it fails.
func (l *Lab) sh(h *peers.Host, script string) string {
	l.t.Helper()
	out, err := h.Shell(60*time.Second, script)
	if err != nil {
		l.t.Fatalf("%s: %v\nscript: %s", h.Name, err, script)
	}
	return out
}

// Sh is sh for tests.
func (l *Lab) Sh(h *peers.Host, script string) string {
	l.t.Helper()
	return l.sh(h, script)
}

// HostKey is the SSH host key that the router showed last.
func (l *Lab) HostKey() ssh.PublicKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hostKey
}

// report prints the console of the peers of a failed test.
func (l *Lab) report() {
	if !l.t.Failed() {
		return
	}
	if l.uml != nil {
		l.t.Logf("console of the peers:\n%s", tail(l.uml.Console(), 60))
	}
}

// reportRouter prints what a router has to say when the test failed.
func (l *Lab) reportRouter(r *Router) {
	select {
	case <-r.Done():
	default:
		if !l.t.Failed() {
			return
		}
		for _, l.LANAddress = range []string{l.LANAddress, "192.168.1.1", "192.168.77.1", "192.168.9.1"} {
			out, err := r.Command("show status; show interfaces; history; show log 200")
			if err == nil {
				l.t.Logf("the router's state:\n%s", out)
				break
			}
			l.t.Logf("the router does not tell its state: %v", err)
		}
	}
	if l.t.Failed() {
		l.t.Logf("serial console of the router:\n%s", tail(r.Console.Text(), 150))
	}
}

// tail is the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
