package passthrough

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
)

// Native is native IPsec between a device and a server: what table ip learned
// of it.
type Native struct {
	Server, Device netip.Addr
	Since          time.Time // it was first seen
	Shared         bool      // other devices talk to the server too: what it sends is copied to all, but for SPIs whose device is known
	Cookies        []Cookie  // of its IKE SAs, the newest first
	Out, In        []ESP     // the newest first; In are all of the server's
}

// own are the inbound SPIs that are known to be the device's.
func (n Native) own() []ESP {
	if !n.Shared {
		return n.In
	}
	return slices.DeleteFunc(slices.Clone(n.In), func(e ESP) bool { return e.Bound != n.Device })
}

// Cookie is an IKE SA.
type Cookie struct {
	SPI  uint64        // the initiator's
	Last time.Duration // since the device's last packet
}

// ESP is one direction of an SA, or of all its predecessors.
type ESP struct {
	SPI            uint32
	Packets, Bytes uint64
	Last           time.Duration // since the device's last packet; nothing times what a server sends
	Bound          netip.Addr    // of an inbound one of a shared server: the device that it is known to be of
}

// NativeSessions gives one line for IKE and one for ESP of each, ordered like
// Sessions. What a server of several devices sends by an SPI that nobody knows
// the device of is not counted for any of them.
func NativeSessions(list []Native, v View) []api.Session {
	out := []api.Session{}
	for _, n := range list {
		base := api.Session{Protocol: "ipsec", Device: n.Device, Name: v.Names[n.Device], Server: n.Server, Age: v.age(n.Since)}
		if len(n.Cookies) > 0 {
			s := base
			s.Kind, s.IDs, s.Owner = "ike", fmt.Sprintf("udp 500>500 spi 0x%016x", n.Cookies[0].SPI), exact
			s.Last = seconds(n.Cookies[0].Last)
			// Its answers are not counted. A device that has an SA to send ESP with
			// has got them.
			s.State = state(len(n.Out) > 0 || len(n.In) > 0 && !n.Shared, s.Last)
			out = append(out, s)
		}
		if len(n.Out) == 0 && (len(n.In) == 0 || n.Shared) {
			continue
		}
		s, in := base, n.own()
		s.Kind, s.Owner = "esp", only
		if n.Shared {
			s.Owner = copied
			if len(in) > 0 {
				s.Owner = evidence
			}
		}
		if len(n.Out) > 0 {
			s.Last = seconds(n.Out[0].Last)
		}
		// ESP needs an SA, which was negotiated.
		s.State = state(true, s.Last)
		if s.State == up && s.Owner == copied {
			s.State = learning
		}
		var ids []string
		if len(n.Out) > 0 {
			ids = append(ids, fmt.Sprintf("spi 0x%08x out", n.Out[0].SPI))
		}
		if len(in) > 0 {
			ids = append(ids, fmt.Sprintf("0x%08x in", in[0].SPI))
		}
		s.IDs = strings.Join(ids, ", ")
		for _, e := range n.Out {
			s.PktsOut, s.BytesOut = s.PktsOut+e.Packets, s.BytesOut+e.Bytes
		}
		for _, e := range in {
			s.PktsIn, s.BytesIn = s.PktsIn+e.Packets, s.BytesIn+e.Bytes
		}
		out = append(out, s)
	}
	return out
}

// Sort orders sessions by device, server and protocol, control before data.
func Sort(out []api.Session) {
	slices.SortFunc(out, func(a, b api.Session) int {
		if c := a.Device.Compare(b.Device); c != 0 {
			return c
		}
		if c := a.Server.Compare(b.Server); c != 0 {
			return c
		}
		if c := strings.Compare(a.Protocol, b.Protocol); c != 0 {
			return c
		}
		if a.Kind != b.Kind {
			return order(a.Kind) - order(b.Kind)
		}
		return strings.Compare(a.IDs, b.IDs)
	})
}
