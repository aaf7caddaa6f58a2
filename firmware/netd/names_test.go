package netd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/dhcp4d"
	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
	"github.com/culvert-fw/culvert/firmware/resolve"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/firmware/store"
)

// nameServer is the provider's: it says what is in a file.
type nameServer struct {
	r    *testRouter
	file string
	run  *nstest.Daemon
}

func newNameServer(r *testRouter, hosts string) *nameServer {
	n := &nameServer{r: r, file: r.t.TempDir() + "/hosts"}
	n.write(hosts)
	n.start()
	return n
}

func (n *nameServer) write(hosts string) {
	if err := os.WriteFile(n.file, []byte(hosts), 0o644); err != nil {
		n.r.t.Fatal(err)
	}
}

func (n *nameServer) start() {
	n.run = n.r.isp.Start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts", "--addn-hosts="+n.file,
		"--local-ttl=1", "--local=/example.com/", "--listen-address=203.0.113.1", "--bind-interfaces", "--pid-file", "--log-facility=-")
	n.run.Expect(0, "read "+n.file)
}

// says changes the answers.
func (n *nameServer) says(hosts string) {
	n.r.t.Helper()
	n.write(hosts)
	at := len(n.run.Output())
	n.run.Signal(syscall.SIGHUP)
	n.run.Expect(at, "read "+n.file)
}

func (r *testRouter) serverName(name string) api.ServerName {
	r.t.Helper()
	var c api.PassthroughCounters
	if err := r.call(api.MethodCounters, nil, &c); err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(c.Names, func(n api.ServerName) bool { return n.Name == name })
	if i < 0 {
		return api.ServerName{}
	}
	return c.Names[i]
}

// pptp dials the control port of a server from the LAN.
func (r *testRouter) pptp(server string) (conn net.Conn, err error) {
	within(r.t, r.pc, func() error {
		conn, err = net.DialTimeout("tcp4", server+":1723", 5*time.Second)
		return nil
	})
	if err == nil {
		r.t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(time.Minute))
	}
	return conn, err
}

func echoes(t *testing.T, c net.Conn, what string) {
	t.Helper()
	b := make([]byte, 4)
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Errorf("%s: %v", what, err)
	} else if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// Two servers; vpn.example.com leads to the first, other.example.com to the second.
const firstServer, secondServer = "198.51.100.1", "198.51.100.2"

// namedServers is a router that has a name in a list, and the servers.
type namedServers struct {
	*testRouter
	dns *nameServer
}

func newNamedServers(t *testing.T) *namedServers {
	nstest.Require(t, "nft", "dnsmasq", "nsenter")
	nstest.IP(t, "link set lo up") // as on a router, so that it shows at once that edge is away
	r := newRouter(t, "203.0.113", "passthrough pptp servers vpn.example.com")
	n := &namedServers{r, newNameServer(r, firstServer+" vpn.example.com\n"+secondServer+" other.example.com\n")}
	for _, a := range []string{firstServer, secondServer} {
		r.isp.Run("ip", "addr", "add", a+"/32", "dev", "lo")
		var l net.Listener
		within(t, r.isp, func() (err error) { l, err = net.Listen("tcp4", a+":1723"); return err })
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go io.Copy(c, c)
			}
		}()
	}
	r.home("192.168.1.50")
	r.online()
	return n
}

// leads waits until vpn.example.com leads there: "[addresses] [held]".
func (n *namedServers) leads(want string) {
	n.t.Helper()
	n.until("the name leads to "+want, func() error {
		v := n.serverName("vpn.example.com")
		if got := fmt.Sprint(v.Addresses, v.Held); got != want || v.Problem != "" || v.Resolved == nil {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
}

func (n *namedServers) refused(server string) {
	n.t.Helper()
	if _, err := n.pptp(server); !errors.Is(err, unix.EHOSTUNREACH) {
		n.t.Errorf("%s: %v", server, err)
	}
}

func (n *namedServers) reach(server string) (c net.Conn) {
	n.t.Helper()
	n.until(server+" is reached", func() (err error) { c, err = n.pptp(server); return err })
	return c
}

func (n *namedServers) commits(line string) {
	n.t.Helper()
	s, base := n.candidate(line)
	if _, err := n.commit(base, s, 0); err != nil {
		n.t.Fatal(err)
	}
}

func (n *namedServers) diagnosed(server, name string) (d api.Diagnosis) {
	n.t.Helper()
	p := api.DiagnoseParams{Device: "192.168.1.50", Server: netip.MustParseAddr(server), ServerName: name, Protocol: "pptp"}
	if err := n.call(api.MethodDiagnose, p, &d); err != nil {
		n.t.Fatal(err)
	}
	return d
}

// TestServerNames takes a name from its first lookup over a move to another
// address and a restart to one that nobody answers for.
func TestServerNames(t *testing.T) {
	n := newNamedServers(t)
	n.leads("[" + firstServer + "] []")
	running := n.reach(firstServer)
	n.refused(secondServer)
	if used := n.inUse(); !used[netip.MustParseAddr(firstServer)] || used[netip.MustParseAddr(secondServer)] {
		t.Errorf("in use: %v", used)
	}
	chains := nftables("-a", "list", "chain", "inet", "culvert", "forward")

	n.dns.says(secondServer + " vpn.example.com other.example.com\n")
	n.leads("[" + secondServer + "] [" + firstServer + "]")
	after := n.reach(secondServer)
	echoes(t, running, "the tunnel to where the name led before")
	if now := nftables("-a", "list", "chain", "inet", "culvert", "forward"); now != chains {
		t.Errorf("the chains were written anew:\n%s\nbefore:\n%s", now, chains)
	}
	if d := n.diagnosed("198.51.100.77", "VPN.example.com"); d.Cause == diagnose.NotAllowed {
		t.Errorf("the name covers the server, and diagnose says %+v", d)
	}

	// A commit that names it otherwise ends nothing, even if the answer takes a moment.
	n.dns.run.Signal(syscall.SIGSTOP)
	time.AfterFunc(time.Second, func() { n.dns.run.Signal(syscall.SIGCONT) })
	n.commits("passthrough pptp servers other.example.com")
	if set := nftables("list", "set", "inet", "culvert", "pptp_servers"); !strings.Contains(set, secondServer) || strings.Contains(set, firstServer) {
		t.Errorf("right after the commit: %s", set)
	}
	echoes(t, after, "the tunnel to where both names lead")
	n.refused(firstServer)

	n.restart(after)

	// A name that does not exist names nobody.
	n.dns.start()
	n.commits("passthrough pptp servers none.example.com")
	n.refused(secondServer)
	if d := n.diagnosed(secondServer, ""); d.Cause != diagnose.NotAllowed || !strings.Contains(d.Text, "none.example.com in it has no address: there is no such name") {
		t.Errorf("%+v", d)
	}
}

// inUse are the addresses with connections, of the kernel that netd has too.
func (n *namedServers) inUse() map[netip.Addr]bool {
	n.t.Helper()
	c, err := conntrack.New()
	if err != nil {
		n.t.Fatal(err)
	}
	d := &daemon{conntrack: c, files: folders{run: n.t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	d.tunnels = newTunnels(d)
	used, err := newServerNames(d).inUse()
	if err != nil {
		n.t.Fatal(err)
	}
	return used
}

// restart is when nobody answers any more, and netd starts anew: it goes on
// with what it knew.
func (n *namedServers) restart(tunnel net.Conn) {
	n.t.Helper()
	n.dns.run.Stop()
	n.stop()
	n.start()
	if set := nftables("list", "set", "inet", "culvert", "pptp_servers"); !strings.Contains(set, secondServer) {
		n.t.Errorf("after a restart: %s", set)
	}
	echoes(n.t, tunnel, "the tunnel after a restart")
	n.until("the failure is told", func() error {
		v := n.serverName("other.example.com")
		if v.Problem != "no name server answers" || fmt.Sprint(v.Addresses) != "["+secondServer+"]" || v.Resolved == nil {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	n.reach(secondServer)
}

// TestNameProblem: people are told of a name that leads nowhere, after a while.
func TestNameProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := settings.Default()
		for _, p := range []string{"pptp", "ipsec"} {
			change(t, s, []string{"passthrough " + p + " servers vpn.example.com 198.51.100.1"})
		}
		n := &serverNames{d: &daemon{want: &plan.Desired{Settings: s}, log: slog.New(slog.DiscardHandler)}, online: true}
		var answers atomic.Bool
		n.resolver = resolve.New(resolve.Options{Emit: func() {}, Lookup: func(context.Context, string) ([]netip.Addr, time.Duration, error) {
			if !answers.Load() {
				return nil, 0, errors.New("no name server answers")
			}
			return []netip.Addr{netip.MustParseAddr("198.51.100.9")}, time.Minute, nil
		}})
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		go n.resolver.Run(ctx)
		n.resolver.SetNames(s.Passthrough.ServerNames())
		time.Sleep(namesPatience - time.Second)
		if got := n.problems(); len(got) != 0 {
			t.Errorf("too soon: %q", got)
		}
		time.Sleep(2 * time.Second)
		want := "vpn.example.com in passthrough pptp servers, passthrough ipsec servers has no address: no name server answers. " +
			"Fix: correct it there; or, where no name resolves, set dns upstreams 9.9.9.9; commit"
		if got := n.problems(); len(got) != 1 || got[0] != want {
			t.Errorf("told: %q", got)
		}
		n.set(s.Passthrough.ServerNames(), nil, false)
		if got := n.problems(); len(got) != 0 {
			t.Errorf("without the Internet: %q", got)
		}
		time.Sleep(time.Hour)
		answers.Store(true)
		n.set(s.Passthrough.ServerNames(), nil, true)
		synctest.Wait() // at once, not when the pause is over
		if got := n.problems(); len(got) != 0 || len(n.resolver.Names()[0].Addrs) != 1 {
			t.Errorf("it resolves: %q, %v", got, n.resolver.Names())
		}
	})
}

// TestLookupAsksEdge: the router believes what its own forwarder says, which
// is what the devices are told; the upstreams only while that is away.
func TestLookupAsksEdge(t *testing.T) {
	nstest.Require(t, "dnsmasq", "nsenter")
	nstest.IP(t, "link set lo up\naddr add 198.51.100.53/32 dev lo")
	t.Cleanup(func() { nstest.IP(t, "addr del 198.51.100.53/32 dev lo") })
	serve := func(addr, says string) *exec.Cmd {
		c := exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts", "--pid-file",
			"--listen-address="+addr, "--bind-interfaces", "--local=/example.com/", "--host-record=vpn.example.com,"+says+",60")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		return c
	}
	edge := serve("127.0.0.1", "192.0.2.1")
	serve("198.51.100.53", "192.0.2.2")
	n := newServerNames(&daemon{files: folders{run: t.TempDir()}, log: slog.New(slog.DiscardHandler)})
	n.set(nil, []netip.Addr{netip.MustParseAddr("198.51.100.53")}, true)
	says := func(want string) {
		t.Helper()
		var got []netip.Addr
		var err error
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if got, _, err = n.lookup(t.Context(), "vpn.example.com"); err == nil && fmt.Sprint(got) == want {
				return
			}
		}
		t.Fatalf("%v, %v; want %s", got, err, want)
	}
	says("[192.0.2.1]")
	if _, _, err := n.lookup(t.Context(), "none.example.com"); !errors.Is(err, resolve.ErrNone) || err.Error() != "there is no such name" {
		t.Errorf("no such name: %v", err)
	}
	edge.Process.Kill()
	edge.Wait()
	says("[192.0.2.2]")
}

// TestLeaseOverRestart: a device that is known by its MAC keeps its rights
// while netd starts anew, at every moment.
func TestLeaseOverRestart(t *testing.T) {
	r := newRouter(t, "203.0.113", "lan hosts phone mac 02:00:00:00:00:0b", "passthrough pptp devices phone")
	r.online()
	r.stop()
	s, _, err := store.Open(filepath.Join(r.files.data, databaseFile), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = leaseStore{s.Bucket("leases")}.Save([]dhcp4d.Lease{
		{MAC: "02:00:00:00:00:0b", Addr: netip.MustParseAddr("192.168.1.150"), Hostname: "phone", Expires: time.Now().Add(time.Hour)}})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	r.start()
	known := func() error {
		if set := nftables("list", "set", "inet", "culvert", "pptp_devices_hosts"); !strings.Contains(set, "02:00:00:00:00:0b . 192.168.1.150") {
			return errors.New(set)
		}
		return nil
	}
	r.until("the lease is in the ruleset", known)
	r.stop()
	var changes bytes.Buffer
	monitor := exec.Command("nft", "monitor", "destroy", "elements")
	monitor.Stdout = &changes
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // it has subscribed
	r.start()
	r.online()
	r.until("the DHCP server tells of the lease", func() error {
		var leases []api.Lease
		if err := r.call(api.MethodLeases, nil, &leases); err != nil || len(leases) != 1 {
			return fmt.Errorf("%v, %v", leases, err)
		}
		return known()
	})
	time.Sleep(time.Second)
	monitor.Process.Kill()
	monitor.Wait()
	if strings.Contains(changes.String(), "pptp_devices") {
		t.Errorf("taken away for a moment:\n%s", changes.String())
	}
}
