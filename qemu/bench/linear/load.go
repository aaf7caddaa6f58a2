package linear

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Loading is what one `nft -f` took that replaced the table by the same one.
type Loading struct {
	Forwards int // the table's port forwards
	Wall     time.Duration
	// CPU is of nft and of the kernel on its behalf: user and system time. What the
	// kernel puts off (freeing what was replaced, in a worker) is in neither.
	CPU time.Duration
}

// Loader measures nft in the network namespace that it is called in.
type Loader struct {
	Nft    string // the program; "" looks for nft in PATH
	Rounds int    // at least 1
	// LAN and WAN are names in rules; the links need not be there.
	LAN, WAN string
}

// Replace measures, for each number of port forwards, Rounds replacements of the
// linear table of that size by itself, and gives the median of each quantity.
// The sizes take turns, so that what disturbs the host disturbs all. It leaves
// no table behind.
func (l Loader) Replace(ctx context.Context, forwards ...int) ([]Loading, error) {
	defer l.nft(context.WithoutCancel(ctx), Plain().Text()) // its error says nothing of the measurement
	rounds := make([][]Loading, len(forwards))
	for range l.Rounds {
		for i, n := range forwards {
			rules, err := l.policy(n)
			if err != nil {
				return nil, err
			}
			text := rules.Text()
			if _, err := l.nft(ctx, text); err != nil {
				return nil, fmt.Errorf("%d forwards: %w", n, err)
			}
			one, err := l.nft(ctx, text)
			if err != nil {
				return nil, fmt.Errorf("%d forwards, replaced: %w", n, err)
			}
			rounds[i] = append(rounds[i], one)
		}
	}
	result := make([]Loading, len(forwards))
	for i, n := range forwards {
		result[i] = Loading{
			Forwards: n,
			Wall:     median(rounds[i], func(x Loading) time.Duration { return x.Wall }),
			CPU:      median(rounds[i], func(x Loading) time.Duration { return x.CPU }),
		}
	}
	return result, nil
}

// policy is the default policy and n port forwards. Without offload: that would
// need the links.
func (l Loader) policy(n int) (*Ruleset, error) {
	s := settings.Default()
	s.Firewall.Offload = false
	s.Firewall.Forwards = Forwards(s.LAN.Address, n)
	return Policy(firewall.Input{LANDevice: l.LAN, WANDevice: l.WAN, LAN: s.LAN.Address, Settings: s,
		WAN: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, 2})}}, nil)
}

// nft loads a text, and says what that took. Starting the program counts: who
// loads so starts it each time.
func (l Loader) nft(ctx context.Context, text string) (Loading, error) {
	program := l.Nft
	if program == "" {
		program = "nft"
	}
	cmd := exec.CommandContext(ctx, program, "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(began)
	if err != nil {
		return Loading{}, fmt.Errorf("nft -f: %w: %.500s", err, out)
	}
	p := cmd.ProcessState
	return Loading{Wall: wall, CPU: p.UserTime() + p.SystemTime()}, nil
}

func median(rounds []Loading, of func(Loading) time.Duration) time.Duration {
	values := make([]time.Duration, len(rounds))
	for i, r := range rounds {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
