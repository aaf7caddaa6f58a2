// Package fake is a kernel in memory that behaves as Linux does where it
// matters to reconcile: what goes away with what, and what is refused. Every
// write can be made to fail. It is for tests.
package fake

import (
	"fmt"
	"slices"
	"sync"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"golang.org/x/sys/unix"
)

// Kernel is the state. Net, Sysctl and Rules are its three faces.
type Kernel struct {
	mu     sync.Mutex
	state  netstate.State // Sysctls: what was written
	table  *ruleset.Table
	writes int
	looks  int
	fault  func(write int, what string) error
	log    []string
	notify func()
}

// New makes a kernel with these physical interfaces, down and without addresses.
func New(physical ...string) *Kernel {
	k := &Kernel{}
	for i, name := range physical {
		k.state.Links = append(k.state.Links, netstate.Link{
			Name: name, Kind: netstate.Physical, MTU: 1500, MAC: fmt.Sprintf("02:00:00:00:00:%02x", i+1),
			Index: i + 2, Carrier: true,
		})
	}
	return k
}

// Fault makes f decide about every write: an error fails it, and nothing of it
// is done. The writes since the last call of Fault are counted from 0.
func (k *Kernel) Fault(f func(write int, what string) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault, k.writes = f, 0
}

// Notify has f called after every write, as kernel/watch would tick.
func (k *Kernel) Notify(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.notify = f
}

// State is the state as an observer with all rights sees it.
func (k *Kernel) State() (netstate.State, *ruleset.Table) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state.Clone()
	s.Sort()
	return s, k.table
}

// Clone returns a kernel in the same state, without faults.
func (k *Kernel) Clone() *Kernel {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &Kernel{state: k.state.Clone(), table: k.table}
}

// Log lists the writes that went well, in order.
func (k *Kernel) Log() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.log)
}

// Looks counts the observations of the network state.
func (k *Kernel) Looks() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.looks
}

// write does f unless a fault is due.
func (k *Kernel) write(what string, f func() error) error {
	k.mu.Lock()
	n := k.writes
	k.writes++
	var err error
	if k.fault != nil {
		err = k.fault(n, what)
	}
	if err == nil {
		err = f()
	}
	if err == nil {
		k.log = append(k.log, what)
	}
	notify := k.notify
	k.mu.Unlock()
	if notify != nil {
		notify()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Net is the face of links, addresses and routes.
type Net struct{ *Kernel }

// Observe returns everything but sysctls.
func (k Net) Observe() (netstate.State, error) {
	k.mu.Lock()
	k.looks++
	k.mu.Unlock()
	s, _ := k.State()
	s.Sysctls = nil
	return s, nil
}

// Do makes one change.
func (k Net) Do(c netstate.Change) error { return k.write(c.Text(), func() error { return k.do(c) }) }

// Sysctl is the face of /proc/sys. Every key of an interface that exists is
// there, "0" until written.
type Sysctl struct{ *Kernel }

// Observe reads the keys of want.
func (k Sysctl) Observe(want []netstate.Sysctl) (got []netstate.Sysctl, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range want {
		if _, ok := k.state.Link(w.Link); w.Link != "" && !ok {
			continue
		}
		v, ok := k.state.Sysctl(w.Key)
		if !ok {
			v = "0"
		}
		w.Value, w.Why = v, ""
		got = append(got, w)
	}
	return got, nil
}

// Do writes one key.
func (k Sysctl) Do(c netstate.Change) error {
	return k.write(c.Text(), func() error {
		if _, ok := k.state.Link(c.Sysctl.Link); c.Sysctl.Link != "" && !ok {
			return unix.ENOENT
		}
		k.state.Sysctls = slices.DeleteFunc(k.state.Sysctls, func(o netstate.Sysctl) bool { return o.Key == c.Sysctl.Key })
		if c.Sysctl.Value != "0" {
			k.state.Sysctls = append(k.state.Sysctls, c.Sysctl)
		}
		return nil
	})
}

// Rules is the face of the owned table.
type Rules struct{ *Kernel }

// Observe returns the table.
func (k Rules) Observe() (*ruleset.Table, error) {
	_, t := k.State()
	return t, nil
}

// Agreed does nothing: Observe is cheap here.
func (k Rules) Agreed(want, seen *ruleset.Table) {}

// Apply replaces from by to; from must be what is there.
func (k Rules) Apply(from, to *ruleset.Table) error {
	return k.write("nft", func() error {
		if d := ruleset.Diff(from, k.table); len(d) > 0 {
			return fmt.Errorf("the table is not what it is said to be: %v", d)
		}
		if to != nil {
			for _, f := range to.Flowtables {
				for _, dev := range f.Devices {
					if _, ok := k.state.Link(dev); !ok {
						return fmt.Errorf("flowtable %s: %s: %w", f.Name, dev, unix.ENOENT)
					}
				}
			}
		}
		k.table = to
		return nil
	})
}
