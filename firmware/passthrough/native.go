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
	Shared         bool      // other devices talk to the server too: what it sends is copied to all
	Cookies        []uint64  // initiator's SPIs of its IKE SAs, the newest first
	Out, In        []ESP     // the newest first
}

// ESP is one direction of an SA, or of all its predecessors.
type ESP struct {
	SPI            uint32
	Packets, Bytes uint64
}

// NativeSessions gives one line for IKE and one for ESP of each, ordered like
// Sessions. What a server of several devices sends belongs to nobody in
// particular, so it is not counted for any of them.
func NativeSessions(list []Native, v View) []api.Session {
	out := []api.Session{}
	for _, n := range list {
		base := api.Session{Protocol: "ipsec", Device: n.Device, Name: v.Names[n.Device], Server: n.Server, Age: v.age(n.Since)}
		if len(n.Cookies) > 0 {
			s := base
			s.Kind, s.IDs = "ike", fmt.Sprintf("udp 500>500 spi 0x%016x", n.Cookies[0])
			out = append(out, s)
		}
		if len(n.Out) == 0 && (len(n.In) == 0 || n.Shared) {
			continue
		}
		s := base
		s.Kind = "esp"
		var ids []string
		if len(n.Out) > 0 {
			ids = append(ids, fmt.Sprintf("spi 0x%08x out", n.Out[0].SPI))
		}
		switch {
		case n.Shared:
			ids = append(ids, "in copied")
		case len(n.In) > 0:
			ids = append(ids, fmt.Sprintf("0x%08x in", n.In[0].SPI))
		}
		s.IDs = strings.Join(ids, ", ")
		for _, e := range n.Out {
			s.PktsOut, s.BytesOut = s.PktsOut+e.Packets, s.BytesOut+e.Bytes
		}
		if !n.Shared {
			for _, e := range n.In {
				s.PktsIn, s.BytesIn = s.PktsIn+e.Packets, s.BytesIn+e.Bytes
			}
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
