package lab

import (
	"fmt"
	"sync"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// Together dials from all hosts at once and ends the test when one fails. The
// tunnels stay up until the test ends.
func Together(t T, hosts []*peers.Host, dial func(*peers.Host) (*Tunnel, error)) []*Tunnel {
	t.Helper()
	results := make(chan *Tunnel, len(hosts))
	for _, h := range hosts {
		go func() {
			var tu *Tunnel
			defer func() { results <- tu }() // also when dial ends the goroutine
			var err error
			if tu, err = dial(h); err != nil {
				t.Errorf("dial: %v", err)
			}
		}()
	}
	var tunnels []*Tunnel
	for range hosts {
		if tu := <-results; tu != nil {
			tunnels = append(tunnels, tu)
		}
	}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, tu := range tunnels {
			wg.Go(func() { tu.Stop() })
		}
		wg.Wait()
	})
	if len(tunnels) < len(hosts) {
		t.Fatalf("%d of %d tunnels came up", len(tunnels), len(hosts))
	}
	return tunnels
}

// chatter asks something now and then, as people do: what begins at no regular
// time tells the router whose a tunnel is.
const chatter = `import random, subprocess, sys, time
while True:
    subprocess.run(["ping", "-n", "-q", "-c", "3", "-i", "0.05", "-s", sys.argv[3], "-I", sys.argv[1], sys.argv[2]])
    time.sleep(random.uniform(0.4, 1.6))
`

// Chatter sends through the tunnel, pings of size bytes, until it is stopped.
func (tu *Tunnel) Chatter(size int) (*peers.Process, error) {
	return tu.Host.Start("python3", "-c", chatter, tu.Local, tu.Remote, fmt.Sprint(size))
}
