package qemu

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// complaint is a VPN that does not come up, or one that does, and what the
// router has to tell of it.
type complaint struct {
	cause string
	ask   string         // the device, the server and what else is asked
	says  string         // a regular expression of what is printed, its blanks made one
	ready func(*lab.Lab) // waits for what has to be so before
	try   func(*lab.Lab) // starts the attempt; it is called once the router watches
	also  func(*lab.Lab)
}

// complaints are some by their names.
type complaints map[string]complaint

// add adds one about server n.
func (all complaints) add(name, cause, device string, n int, says string, try func(*lab.Lab)) {
	all[name] = complaint{cause: cause, ask: device + " " + server(n), says: says, try: try}
}

// rank tells which begin first: those about which the router is never sure
// before half a minute is over.
func (c complaint) rank() int {
	switch c.cause {
	case diagnose.NothingSent, diagnose.Idle, diagnose.NoTunnel, diagnose.Clock, diagnose.Negotiating, diagnose.NoGRE:
		return 0
	case diagnose.SharedL2TP, diagnose.AmbiguousESP:
		return 2 // it takes a while until it is so
	}
	return 1
}

// server is an address of a server; each complaint has one of its own.
func server(n int) string { return fmt.Sprintf("198.51.100.%d", n) }

// shell starts a script in a host that ends with the step.
func shell(h *peers.Host, format string, v ...any) func(*lab.Lab) {
	return func(l *lab.Lab) { l.Start(h, "sh", "-c", fmt.Sprintf(format, v...)) }
}

// connections gives as many SSH connections as eight diagnoses need, which is
// what the router lets run at once; each carries four sessions.
func connections(l *lab.Lab) chan *ssh.Client {
	const connections, sessions = 2, 4
	free := make(chan *ssh.Client, connections*sessions)
	for range connections {
		c, err := l.Router.SSH(l.LANAddress)
		l.Check(err)
		l.Cleanup(func() { c.Close() })
		for range sessions {
			free <- c
		}
	}
	return free
}

// complain asks the router about all at once and returns the causes that were
// told.
func complain(t *testing.T, l *lab.Lab, free chan *ssh.Client, all complaints) (told []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	// t.Parallel would let as many run as there are processors; these wait, mostly.
	names := slices.Sorted(maps.Keys(all))
	slices.SortStableFunc(names, func(a, b string) int { return all[a].rank() - all[b].rank() })
	for _, name := range names {
		c := <-free
		wg.Go(func() {
			defer func() { free <- c }()
			t.Run(name, func(t *testing.T) {
				all[name].check(t, l.For(t), c)
				mu.Lock()
				defer mu.Unlock()
				told = append(told, all[name].cause)
			})
		})
	}
	wg.Wait()
	return told
}

func (c complaint) check(t *testing.T, l *lab.Lab, on *ssh.Client) {
	if c.ready != nil {
		c.ready(l)
	}
	// On a busy machine peers may be too slow to answer while the doctor watches.
	told := false
	for try := 0; try < 2 && !told; try++ {
		told = c.told(t, l, on)
	}
	if !told {
		t.Errorf("%s: not told, twice: %s", c.cause, c.says)
	}
	if c.also != nil {
		c.also(l)
	}
}

// told asks the doctor once, and tells whether it says what it should.
func (c complaint) told(t *testing.T, l *lab.Lab, on *ssh.Client) bool {
	began := time.Now()
	out, err := lab.Live(on, "diagnose vpn "+c.ask+" live", "watching for", func() {
		if c.try != nil {
			c.try(l)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after %.1f s:\n%s", time.Since(began).Seconds(), out)
	return regexp.MustCompile(c.says).MatchString(strings.Join(strings.Fields(out), " "))
}

// TestDiagnose: what `diagnose vpn` prints of real clients that fail, each for
// another reason, and of some that do not.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{Settings: settings.Default(), Peers: true})
	// While it boots:
	troubles(l)
	ipsecServer(l)
	l.PPTPServer(l.S1)
	l.L2TPServer(l.S1)
	l.L2TPServer(l.S2, "listen-addr = "+server(manyL2TP))
	tunnelServers(l)
	l.Online()
	for _, h := range l.C {
		l.Lease(h)
	}
	ipsecClients(l)
	free := connections(l)
	var told []string
	for _, some := range []func(*lab.Lab) complaints{watchedComplaints, refusedComplaints, unplugged, sharedAddress} {
		told = append(told, complain(t, l, free, some(l))...)
	}
	if t.Failed() {
		return
	}
	for _, c := range diagnose.Causes {
		// Too little was seen: that is of no VPN in particular.
		if c != diagnose.NotTold && !slices.Contains(told, c) {
			t.Errorf("nobody was told %q", c)
		}
	}
}
