package main

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/slowpath"
)

// slowpathGroups are packets that go through the rules, on the host's CPU:
// beside the linear rules, which only the host's nft can load.
func slowpathGroups() []bench.Group {
	o := slowpath.Options{Packets: 100_000, Flows: 2000, Rounds: 9}
	return []bench.Group{
		{Name: "rules", Ground: bench.AMD64, Rows: []string{"rules-amd64"}, Run: func(ctx context.Context, _ *bench.Env) ([]bench.Row, error) {
			r, err := slowpath.Established(ctx, o)
			if err != nil {
				return nil, err
			}
			row := againstLinear("rules-amd64", "a flow that is not offloaded, whole policy", r)
			row.Note = fmt.Sprintf("One masquerade rule %s, plain forwarding %s; in all of them the generator's own %s.",
				nanoseconds(r[slowpath.Floor]), nanoseconds(r[slowpath.Plain]), nanoseconds(r[slowpath.Generator]))
			return []bench.Row{row}, nil
		}},
		{Name: "new-flows", Ground: bench.AMD64, Rows: []string{"new-1000-amd64", "new-open-amd64"}, Run: func(ctx context.Context, env *bench.Env) ([]bench.Row, error) {
			many, err := slowpath.New(ctx, o, 1000, 0)
			if err != nil {
				return nil, err
			}
			rows := []bench.Row{againstLinear("new-1000-amd64", "new connections with 1000 forwards", many)}
			open, err := slowpath.New(ctx, o, 0, 300)
			if err != nil {
				return rows, err
			}
			row := againstLinear("new-open-amd64", "new connections of 64 devices that have 300 open each", open)
			row.Note = "The linear rules limit nobody; Culvert's count, so that no device takes more than its share of conntrack."
			return append(rows, row), nil
		}},
	}
}

func againstLinear(id, what string, r map[slowpath.Peer]slowpath.Rounds) bench.Row {
	ours, linear := r[slowpath.Culvert], r[slowpath.Linear]
	return bench.Row{
		ID: id, What: what, Ground: bench.AMD64, Unit: "ns/packet", Value: float64(ours.Median().Nanoseconds()),
		Peer: float64(linear.Median().Nanoseconds()), PeerWhat: "the linear rules", Ratio: ours.Against(linear),
	}
}

func nanoseconds(r slowpath.Rounds) string {
	return fmt.Sprintf("%d ns", r.Median()/time.Nanosecond)
}
