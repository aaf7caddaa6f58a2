package passthrough

import (
	"cmp"
	"slices"

	"github.com/culvert-fw/culvert/firmware/api"
)

// Counters adds up the native ESP of each server, ordered by address.
func Counters(list []Native) []api.ServerCounters {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Native) int {
		return cmp.Or(a.Server.Compare(b.Server), a.Device.Compare(b.Device))
	})
	out := []api.ServerCounters{}
	for _, n := range list {
		if len(out) == 0 || out[len(out)-1].Server != n.Server {
			c := api.ServerCounters{Server: n.Server, Copied: n.Shared, SPIsIn: len(n.In)}
			for _, e := range n.In { // the server's, the same with each of its devices
				if n.Shared && e.Bound.IsValid() {
					c.SPIsBound++
				}
				c.PktsIn, c.BytesIn = c.PktsIn+e.Packets, c.BytesIn+e.Bytes
			}
			out = append(out, c)
		}
		c := &out[len(out)-1]
		c.Devices++
		c.SPIsOut += len(n.Out)
		for _, e := range n.Out {
			c.PktsOut, c.BytesOut = c.PktsOut+e.Packets, c.BytesOut+e.Bytes
		}
	}
	return out
}
