package lab

import (
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
