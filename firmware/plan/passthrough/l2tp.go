package passthrough

import (
	"net/netip"
	"slices"
	"time"

	rs "github.com/culvert-fw/culvert/firmware/ruleset"
)

// L2TPv2 of many devices, also to one server, all from port 1701.
//
// Conntrack gives each device a port of its own on the WAN's address, which is
// enough for a server that answers from the port that was called to the port
// that called. For others:
//
//   - A server may answer from any port of its own (RFC 2661 8.1). What comes
//     from its address to the port of a device's flow is that device's.
//   - A server may answer to port 1701 whatever port called. The header of what
//     it sends has the Tunnel ID that the device assigned (RFC 2661 3.1), which
//     the device's SCCRQ tells in clear: netd reads it there. Such packets are
//     led to the port of the device's flow before conntrack looks at them.
//
// Only what devices send teaches, and each element is for one server's address.

// Names in table ip. The exported ones are read or filled by netd.
const (
	L2TPPorts   = "l2tp_ports"   // server . port on the WAN's address : device . its port
	L2TPTunnels = "l2tp_tunnels" // server . Tunnel ID that a device assigned : port on the WAN's address
	l2tpFlows   = "l2tp_flows"   // bucket of each device, for flows
	l2tpCalls   = "l2tp_calls"   // and for SCCRQs
	lanL2TP     = "lan_l2tp"
	wanL2TP     = "wan_l2tp"
	l2tpAnswers = "l2tp_answers"
	late        = "late"
)

// L2TPLogGroup is where the kernel tells of SCCRQs as they leave the WAN.
const L2TPLogGroup = 51

const (
	l2tpPort = 1701
	// udpHeader is what stands before L2TP's header.
	udpHeader = 8
	// l2tpTimeout is how long elements live without a packet: 15 times what may
	// pass between two Hellos (RFC 2661 5.5).
	l2tpTimeout = 15 * time.Minute
	// What a device may begin a second, and at once: within l2tpTimeout that is
	// less than a quarter of a set.
	newL2TP, burstL2TP = 1, 32
	// SCCRQs of all devices a second that netd is told of.
	sccrqs, burstSCCRQs = 20, 40
)

// The first two bytes of the header: T, L, S, O and P bits and the version.
const (
	l2tpControl = 0xc802 // T, L and S are set in all control messages, version 2
	l2tpLength  = 0x4000 // L: the header has a Length field
	l2tpVersion = 0x000f
)

func (n Network) l2tpSets() []rs.Set {
	set := func(name string, key, data []rs.Type) rs.Set {
		return rs.Set{Name: name, Key: key, Data: data, Learned: true, Timeout: l2tpTimeout, Size: n.limit()}
	}
	pair := []rs.Type{rs.IPv4Addr, rs.InetService}
	bucket := func(name string) rs.Set {
		s := set(name, []rs.Type{rs.IPv4Addr}, nil)
		s.Timeout = 2 * time.Minute // it is full again before it is forgotten
		return s
	}
	return []rs.Set{set(L2TPPorts, pair, pair), set(L2TPTunnels, pair, []rs.Type{rs.InetService}), bucket(l2tpFlows), bucket(l2tpCalls)}
}

// l2tpPart adds what L2TP needs beside masquerading; l tells whom it is for,
// ports at which servers are called.
func l2tpPart(part *Part, l limit, ports []int, n Network) {
	if !n.WAN.Is4() {
		return
	}
	const why = "passthrough l2tp on"
	wan := []rs.Expr{rs.Iif{Name: n.WANDevice}, rs.Dest{Prefix: netip.PrefixFrom(n.WAN, 32)}}
	t := part.table()
	t.Sets = append(t.Sets, n.l2tpSets()...)
	t.Sets = append(t.Sets, l.servers.sets()...)
	e := earlyUDPChain(t)
	e.Rules = append(e.Rules, rs.R(why, slices.Concat([]rs.Expr{calls(l2tpPort)}, wan, []rs.Expr{to(wanL2TP)})...))
	o := lateChain(t)
	// The flowtable goes by ports alone, and would take what belongs to another
	// device's tunnel.
	part.Carried = append(part.Carried, rs.R(why, rs.Sport{Protocol: rs.UDP, Port: l2tpPort}, accept))
	for _, port := range ports {
		called := rs.Dport{Protocol: rs.UDP, Port: port}
		o.Rules = append(o.Rules, rs.R(why, called, rs.Oif{Name: n.WANDevice}, to(lanL2TP)))
		part.Carried = append(part.Carried, rs.R(why, called, accept))
	}
	others := l.servers.pass(rs.FieldSource)
	t.Chains = append(t.Chains, l2tpDemux(others), l2tpLearn(),
		// Before the port forwards: a server that a device called is that device's.
		rs.Chain{Name: "dstnat", Type: "nat", Hook: rs.Prerouting, Priority: -101, Rules: []rs.Rule{
			rs.R(why, slices.Concat(wan, []rs.Expr{rs.L4{Protocol: rs.UDP}, to(l2tpAnswers)})...)}},
		rs.Chain{Name: l2tpAnswers, Rules: append(slices.Clone(others), rs.R("a server that answers from another port",
			rs.Payload{Offset: udpHeader, Len: 2, Mask: l2tpVersion, Value: 2},
			rs.DNAT{Key: rs.Fields{rs.FieldSource, rs.FieldDport}, Map: L2TPPorts}))})
}

// l2tpDemux leads what comes to port 1701 to the port of the flow that the
// Tunnel ID belongs to. Its place depends on whether the header has a Length.
func l2tpDemux(others []rs.Rule) rs.Chain {
	c := rs.Chain{Name: wanL2TP, Rules: slices.Clone(others)}
	for _, shape := range []struct {
		flags  uint64
		tunnel rs.Field
	}{{l2tpLength | 2, rs.FieldTunnelLong}, {2, rs.FieldTunnel}} {
		for _, unsummed := range []bool{true, false} {
			key := rs.Fields{rs.FieldSource, shape.tunnel}
			c.Rules = append(c.Rules, rs.R("by the Tunnel ID", rs.Payload{Offset: udpHeader, Len: 2, Mask: l2tpLength | l2tpVersion, Value: shape.flags},
				rs.SetDport{Key: key, Map: L2TPTunnels, Unsummed: unsummed}, accept))
		}
	}
	return c
}

// l2tpLearn learns from control messages on their way out, source translated.
func l2tpLearn() rs.Chain {
	control := rs.Payload{Offset: udpHeader, Len: 2, Value: l2tpControl}
	bucket := func(set string) rs.Expr {
		return rs.Meter{Set: set, Key: rs.Fields{rs.FieldFirstSource}, Rate: newL2TP, Burst: burstL2TP}
	}
	flow := rs.Learn{Set: L2TPPorts, Key: rs.Fields{rs.FieldDest, rs.FieldSport}, Data: rs.Fields{rs.FieldFirstSource, rs.FieldFirstSport}}
	return rs.Chain{Name: lanL2TP, Rules: []rs.Rule{
		rs.R("of a server on the LAN", rs.Answers{}, accept),
		rs.R("lives on", control, rs.In{Key: flow.Key, Set: L2TPPorts}, flow),
		rs.R("a new flow", control, rs.In{Key: flow.Key, Set: L2TPPorts, Not: true},
			bucket(l2tpFlows), flow),
		// Tunnel ID 0 and, in the first AVP, Message Type 1 (RFC 2661 4.4.1, 6.1).
		rs.R("netd reads the Tunnel ID", control, rs.Payload{Offset: udpHeader + 4, Len: 2, Value: 0}, rs.Payload{Offset: udpHeader + 18, Len: 2, Value: 1},
			bucket(l2tpCalls), rs.Limit{Rate: sccrqs, Burst: burstSCCRQs}, rs.Log{Group: L2TPLogGroup, Bytes: 1500, Prefix: "sccrq"}),
	}}
}

// lateChain is table ip's chain after source NAT, made when there is none yet.
func lateChain(t *rs.Table) *rs.Chain {
	if c := t.Chain(late); c != nil {
		return c
	}
	t.Chains = append(t.Chains, rs.Chain{Name: late, Type: "filter", Hook: rs.Postrouting, Priority: latePriority})
	return &t.Chains[len(t.Chains)-1]
}

// latePriority is after the source was translated (100).
const latePriority = 110
