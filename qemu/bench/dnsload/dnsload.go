// Package dnsload counts the CPU time that name servers need for a query: of
// Culvert's, and of dnsmasq beside it. Both run at the same time and are asked
// by turns, so that what else the machine does meets both.
//
// A hit is a question that the server answers from its cache; a miss is one
// that it has not been asked yet, so that its upstream must be. The upstream and
// the client are this process, whose time is not counted.
package dnsload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Options are what is compared, and for how long.
type Options struct {
	// Culvert is the program below server, Dnsmasq is dnsmasq: paths.
	Culvert, Dnsmasq string
	// Hits and Misses are the queries of each kind that a server is asked in a
	// round; Rounds is how many rounds there are.
	Hits, Misses, Rounds int
	// CulvertArgs are more arguments for Culvert's server: where to write a profile.
	CulvertArgs []string
}

// Rate is how many queries a server answers in a second of its CPU time: the
// median of the rounds.
type Rate struct {
	Culvert, Dnsmasq float64
	Ratio            float64 // Culvert's against dnsmasq's: the median of the rounds' ratios
}

// Result is what came out.
type Result struct{ Hit, Miss Rate }

const (
	cacheSize = 1000 // answers: what Culvert's settings have by default
	hitNames  = 256  // different names that are asked for again and again
)

// The places of all who take part, on loopback. The servers take questions of
// their own /24 only, as on a LAN.
var (
	upstreamAt = netip.MustParseAddrPort("127.53.1.1:5300")
	culvertAt  = netip.MustParseAddrPort("127.53.0.1:5301")
	dnsmasqAt  = netip.MustParseAddrPort("127.53.0.2:5302")
)

// Measure runs both servers in the current network namespace, whose loopback
// must be up, and asks them.
func Measure(ctx context.Context, o Options) (result Result, err error) {
	up, err := startUpstream(upstreamAt)
	if err != nil {
		return Result{}, err
	}
	defer up.close()
	servers, err := startBoth(ctx, o)
	for _, s := range servers {
		defer func() { err = errors.Join(err, s.stop()) }()
	}
	if err != nil {
		return Result{}, err
	}
	var hit, miss rates
	for round := range o.Rounds {
		for i, s := range servers {
			h, m, err := s.round(ctx, up, o, round)
			if err != nil {
				return Result{}, fmt.Errorf("%s: %w", s.name, err)
			}
			hit[i], miss[i] = append(hit[i], h), append(miss[i], m)
		}
	}
	return Result{Hit: hit.median(), Miss: miss.median()}, nil
}

// round asks s for names that it knows, then for ones that it does not, and
// returns the queries a CPU second of each.
func (s *server) round(ctx context.Context, up *upstream, o Options, round int) (hit, miss float64, err error) {
	c, err := newClient(s.at)
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	known := names{prefix: "known", n: hitNames}
	if err := c.ask(ctx, known, hitNames); err != nil { // the misses before took their places
		return 0, 0, err
	}
	hit, err = s.rate(up, 0, o.Hits, func() error { return c.ask(ctx, known, o.Hits) })
	if err != nil {
		return 0, 0, fmt.Errorf("hits: %w", err)
	}
	fresh := names{prefix: fmt.Sprintf("fresh%d", round), n: o.Misses}
	miss, err = s.rate(up, o.Misses, o.Misses, func() error { return c.ask(ctx, fresh, o.Misses) })
	if err != nil {
		return 0, 0, fmt.Errorf("misses: %w", err)
	}
	return hit, miss, nil
}

// rate is how many of n queries s answers in a CPU second while ask asks them.
// They must reach the upstream as often as wanted: else they were no hits, or
// no misses.
func (s *server) rate(up *upstream, wanted, n int, ask func() error) (float64, error) {
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	asked := up.asked.Load()
	if err := ask(); err != nil {
		return 0, err
	}
	if got := int(up.asked.Load() - asked); got != wanted {
		return 0, fmt.Errorf("%d queries made %d to the upstream, want %d", n, got, wanted)
	}
	after, err := s.cpu()
	if err != nil {
		return 0, err
	}
	if after <= before {
		return 0, errors.New("it needed no time: this kernel does not count it")
	}
	return float64(n) / (after - before).Seconds(), nil
}

// rates are those of Culvert and of dnsmasq, round by round.
type rates [2][]float64

func (r rates) median() Rate {
	ratios := make([]float64, len(r[0]))
	for i := range ratios {
		ratios[i] = r[0][i] / r[1][i]
	}
	return Rate{Culvert: median(r[0]), Dnsmasq: median(r[1]), Ratio: median(ratios)}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}
