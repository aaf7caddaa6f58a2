// Package slowpath measures what a packet costs that goes through the rules, on
// the CPU of the host and beside other rules: the linear ones with the same
// policy, one masquerade rule, and none.
package slowpath

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/qemu/bench/frames"
	"github.com/culvert-fw/culvert/qemu/bench/linear"
)

// Options are how much is measured.
type Options struct {
	Packets int // of one flow, in a round
	Flows   int // that begin, in a round; at most frames.MaxFlows
	Rounds  int
}

// Peer names the rules that are measured.
type Peer string

// Culvert's rules, the others, and frames that the router throws away at once: what
// the generator itself costs, which is in the numbers of all.
const (
	Culvert   Peer = "culvert"
	Linear    Peer = "linear"
	Floor     Peer = "floor"
	Plain     Peer = "plain"
	Generator Peer = "generator"
)

// Rounds is the CPU time of a packet in each round.
type Rounds []time.Duration

// Median of the rounds.
func (r Rounds) Median() time.Duration {
	s := slices.Sorted(slices.Values(r))
	return s[len(s)/2]
}

// Against is how much less r takes than the peer, as the median of the rounds'
// ratios: what disturbs a round disturbs both.
func (r Rounds) Against(peer Rounds) float64 {
	ratios := make([]float64, len(r))
	for i := range r {
		ratios[i] = float64(peer[i]) / float64(r[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// Established measures packets of one flow that has been answered, through each
// peer's rules.
func Established(ctx context.Context, o Options) (map[Peer]Rounds, error) {
	return measure(ctx, o, 0, []Peer{Culvert, Linear, Floor, Plain, Generator}, func(r *router, p Peer) (time.Duration, error) {
		switch p {
		case Generator:
			return frames.Packets(r.lan.Index, r.stray, o.Packets)
		case Plain: // nobody tracks
			return r.counted(o.Packets, frames.Packets)
		}
		return r.established(o.Packets)
	})
}

// New measures the first packets of flows to the Internet, through the rules of
// Culvert and the linear ones with so many port forwards, when each of
// frames.Hosts devices has so many flows open.
func New(ctx context.Context, o Options, forwards, open int) (map[Peer]Rounds, error) {
	return measure(ctx, o, forwards, []Peer{Culvert, Linear}, func(r *router, _ Peer) (time.Duration, error) { return r.begun(o.Flows, open) })
}

// measure makes a router in the current network namespace, takes the peers by
// turns, and leaves nothing behind.
func measure(ctx context.Context, o Options, forwards int, peers []Peer, one func(*router, Peer) (time.Duration, error)) (result map[Peer]Rounds, err error) {
	r, err := newRouter()
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.close(); err == nil {
			err = e
		}
	}()
	result = map[Peer]Rounds{}
	for range o.Rounds {
		for _, p := range peers {
			if err := become(ctx, p, forwards); err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			cpu, err := one(r, p)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			result[p] = append(result[p], cpu)
		}
	}
	return result, nil
}

// become loads one peer's rules instead of what was there.
func become(ctx context.Context, p Peer, forwards int) error {
	in, rules := policy(forwards), linear.Plain()
	switch p {
	case Culvert:
		if err := load(ctx, rules.Text()); err != nil {
			return err
		}
		return culvert(&in)
	case Linear:
		var err error
		if rules, err = linear.Policy(in, nil); err != nil {
			return err
		}
	case Floor:
		rules = linear.Floor(wanDevice)
	}
	if err := culvert(nil); err != nil {
		return err
	}
	return load(ctx, rules.Text())
}
