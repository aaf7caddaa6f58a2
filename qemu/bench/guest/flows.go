package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

func init() {
	add("flows", func(_ context.Context, of device) (any, error) { return flows(of) })
	add("answered", func(_ context.Context, of device) (any, error) { return answered(of) })
	add("forget", func(context.Context, struct{}) (any, error) { return nil, vnl.ConntrackTableFlush(vnl.ConntrackTable) })
	add("neighbour", func(_ context.Context, n Neighbour) (any, error) { return nil, n.set() })
	add("protocol", func(_ context.Context, p Rewrite) (any, error) { return nil, p.set() })
	add("delete-table", func(_ context.Context, p struct{ Name string }) (any, error) { return nil, deleteTable(p.Name) })
	add("ruleset", func(_ context.Context, p struct{ Masquerade string }) (any, error) { return nil, ruleset(p.Masquerade) })
}

// device is who began the flows that are meant: the router has some of its own.
type device struct{ Address netip.Addr }

func (d device) began(e *conntrack.Entry) bool {
	return e.Protocol == unix.IPPROTO_UDP && e.Orig.Src == d.Address
}

// Flows are conntrack's UDP entries of a device.
type Flows struct{ All, Offloaded int }

func flows(of device) (f Flows, err error) {
	c, err := conntrack.New()
	if err != nil {
		return f, err
	}
	err = c.Dump(func(e *conntrack.Entry) error {
		if of.began(e) {
			f.All++
			if e.Offloaded() {
				f.Offloaded++
			}
		}
		return nil
	})
	return f, err
}

// answered marks a device's UDP flows as seen in both directions, because the generator sends in one
// (ctnetlink_change_status lets that be set). It returns how many.
func answered(of device) (n int, err error) {
	c, err := conntrack.New()
	if err != nil {
		return 0, err
	}
	var all []conntrack.Entry
	err = c.Dump(func(e *conntrack.Entry) error {
		if of.began(e) {
			all = append(all, *e)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer nl.Close()
	for _, e := range all {
		if err := mark(nl, &e); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Attributes of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig  = 1
	ctaStatus     = 3
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv4Dst    = 2
	ctaProtoNum   = 1
	ctaProtoSrc   = 2
	ctaProtoDst   = 3
)

func mark(nl *netlink.Conn, e *conntrack.Entry) error {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctaTupleOrig, func(t *netlink.AttributeEncoder) error {
		t.Nested(ctaTupleIP, func(a *netlink.AttributeEncoder) error {
			a.Bytes(ctaIPv4Src, e.Orig.Src.AsSlice())
			a.Bytes(ctaIPv4Dst, e.Orig.Dst.AsSlice())
			return nil
		})
		t.Nested(ctaTupleProto, func(a *netlink.AttributeEncoder) error {
			a.ByteOrder = binary.BigEndian
			a.Uint8(ctaProtoNum, e.Protocol)
			a.Uint16(ctaProtoSrc, e.Orig.SrcPort)
			a.Uint16(ctaProtoDst, e.Orig.DstPort)
			return nil
		})
		return nil
	})
	ae.Uint32(ctaStatus, uint32(e.Status|conntrack.SeenReply|conntrack.Assured))
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = nl.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK << 8, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return fmt.Errorf("conntrack: mark %+v: %w", e.Orig, err)
	}
	return nil
}

// Neighbour is a device that is resolved, as one is that talks.
type Neighbour struct{ Dev, Address, MAC string }

func (n Neighbour) set() error {
	l, err := vnl.LinkByName(n.Dev)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return err
	}
	return vnl.NeighSet(&vnl.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(n.Address), HardwareAddr: mac, State: vnl.NUD_PERMANENT})
}

// Rewrite makes the generator's UDP another IP protocol before anything else sees it: the
// generator knows no other. With protocol 17 it costs the same and changes nothing; 0 takes it away.
type Rewrite struct {
	Dev      string
	Protocol uint8
}

const rewriteTable = "bench"

func (r Rewrite) set() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Name: rewriteTable, Family: nftables.TableFamilyNetdev})
	c.DelTable(t)
	if r.Protocol == 0 {
		return c.Flush()
	}
	t = c.AddTable(&nftables.Table{Name: rewriteTable, Family: nftables.TableFamilyNetdev})
	ch := c.AddChain(&nftables.Chain{Name: "in", Table: t, Type: nftables.ChainTypeFilter, Device: r.Dev,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityRef(-500)})
	// Two bytes, because the checksum is of pairs (RFC 791, 3.1); pktgen writes a TTL of 32.
	const ttlAt, checksumAt, ttl = 8, 10, 32
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: []byte{ttl, r.Protocol}},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ttlAt, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: checksumAt},
	}})
	return c.Flush()
}

// ruleset takes all rules away, and makes the least NAT there can be when it is told the WAN's
// device: one rule.
func ruleset(masquerade string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.FlushRuleset()
	if masquerade != "" {
		t := c.AddTable(&nftables.Table{Name: "floor", Family: nftables.TableFamilyIPv4})
		ch := c.AddChain(&nftables.Chain{Name: "post", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		name := append([]byte(masquerade), 0)
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append(name, make([]byte, 16-len(name))...)},
			&expr.Masq{},
		}})
	}
	return c.Flush()
}

// deleteTable takes one of the router's IPv4 tables away, until netd goes on and brings it back.
func deleteTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyIPv4})
	return c.Flush()
}
