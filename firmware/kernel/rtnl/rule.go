package rtnl

import (
	"encoding/binary"
	"strings"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of linux/fib_rules.h that x/sys/unix lacks.
const (
	fraIifname  = 3
	fraPriority = 6
	fraProtocol = 21
	fraIPProto  = 22

	actionProhibit = 8 // FR_ACT_PROHIBIT
)

// rulePriority stands after the local table, so that packets for the router
// itself are not concerned, and before the main one.
const rulePriority = 1067

// rule adds or deletes one. Encoded here, because the library writes the IP
// protocol, one byte, as a 32-bit number in host order: on a big-endian board
// the kernel would read 0, any protocol.
func rule(op netstate.Op, r netstate.Rule) error {
	typ, flags, done := unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, unix.EEXIST
	if op == netstate.DeleteRule {
		typ, flags, done = unix.RTM_DELRULE, unix.NLM_F_ACK, unix.ENOENT
	}
	req := nl.NewNetlinkRequest(typ, flags)
	// fib_rule_hdr has the layout of rtmsg, its action in the place of the type.
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Type: actionProhibit}})
	req.AddData(nl.NewRtAttr(fraPriority, binary.NativeEndian.AppendUint32(nil, rulePriority)))
	req.AddData(nl.NewRtAttr(fraIifname, nl.ZeroTerminated(r.Iif)))
	req.AddData(nl.NewRtAttr(fraProtocol, []byte{netstate.RouteProtocol}))
	req.AddData(nl.NewRtAttr(fraIPProto, []byte{r.Protocol}))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return ignore(err, done)
}

// rules lists ours.
func rules() ([]netstate.Rule, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}})
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if err != nil {
		return nil, err
	}
	var out []netstate.Rule
	for _, m := range msgs {
		if len(m) < 12 || m[7] != actionProhibit {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[12:])
		if err != nil {
			return nil, err
		}
		var r netstate.Rule
		ours := false
		for _, a := range attrs {
			switch a.Attr.Type {
			case fraIifname:
				r.Iif = strings.TrimRight(string(a.Value), "\x00")
			case fraProtocol:
				ours = len(a.Value) > 0 && a.Value[0] == netstate.RouteProtocol
			case fraIPProto:
				if len(a.Value) > 0 {
					r.Protocol = a.Value[0]
				}
			}
		}
		if ours {
			out = append(out, r)
		}
	}
	return out, nil
}
