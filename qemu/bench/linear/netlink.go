package linear

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// perBatch is how many rules the kernel is told at once: each is acknowledged,
// and the socket's buffer has to hold what is.
const perBatch = 100

var hooks = map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput,
	"forward": nftables.ChainHookForward, "output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting}

// priorities are those that nft's names mean; dstnat is only used in prerouting.
var priorities = map[string]*nftables.ChainPriority{"raw": nftables.ChainPriorityRef(-300), "mangle": nftables.ChainPriorityRef(-150),
	"dstnat": nftables.ChainPriorityRef(-100), "filter": nftables.ChainPriorityRef(0), "srcnat": nftables.ChainPriorityRef(100)}

// Load replaces the table in the current network namespace, where there is no nft
// to do it: on the router itself. It is no measure of loading, because it takes
// many transactions.
func (r *Ruleset) Load() error {
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetReadBuffer(1 << 20) }))
	if err != nil {
		return fmt.Errorf("linear: %w", err)
	}
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	c.AddTable(t) // what is not there cannot be deleted
	c.DelTable(t)
	if len(r.chains) > 0 {
		r.declare(c, t)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("linear: table and chains: %w", err)
	}
	pending := 0
	for _, ch := range r.chains {
		for i, rule := range ch.rules {
			if err := rule.add(c, t, ch.name); err != nil {
				return fmt.Errorf("linear: chain %s, rule %d: %w", ch.name, i, err)
			}
			if pending++; pending == perBatch {
				pending = 0
				if err := c.Flush(); err != nil {
					return fmt.Errorf("linear: chain %s, up to rule %d: %w", ch.name, i, err)
				}
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("linear: %w", err)
	}
	return nil
}

// declare makes the table with all that rules refer to.
func (r *Ruleset) declare(c *nftables.Conn, t *nftables.Table) {
	c.AddTable(t)
	if r.helper {
		c.AddObj(&nftables.NamedObj{Table: t, Name: "pptp", Type: nftables.ObjTypeCtHelper,
			Obj: &expr.CtHelper{Name: "pptp", L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_TCP}})
	}
	if len(r.devices) > 0 {
		c.AddFlowtable(&nftables.Flowtable{Table: t, Name: "ft", Hooknum: nftables.FlowtableHookIngress, Priority: nftables.FlowtablePriorityRef(0), Devices: r.devices})
	}
	for _, ch := range r.chains {
		made := &nftables.Chain{Table: t, Name: ch.name}
		if ch.kind != "" {
			accept := nftables.ChainPolicyAccept
			if ch.policy == "drop" {
				accept = nftables.ChainPolicyDrop
			}
			made.Type, made.Hooknum, made.Priority, made.Policy = nftables.ChainType(ch.kind), hooks[ch.hook], priorities[ch.priority], &accept
		}
		c.AddChain(made)
	}
}

func (r rule) add(c *nftables.Conn, t *nftables.Table, chain string) error {
	made := &nftables.Rule{Table: t, Chain: &nftables.Chain{Table: t, Name: chain}}
	for _, p := range r.parts {
		made.Exprs = appendNew(made.Exprs, p.exprs)
		if p.states == nil {
			continue
		}
		set, err := addStates(c, t, p.states)
		if err != nil {
			return err
		}
		made.Exprs = append(made.Exprs, &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID})
	}
	if r.comment != "" {
		made.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
	}
	c.AddRule(made)
	return nil
}

// appendNew leaves out what was compared before in the rule: the family and the
// protocol, which every field needs.
func appendNew(all, more []expr.Any) []expr.Any {
	for i := 0; i < len(more); i++ {
		m, isMeta := more[i].(*expr.Meta)
		if isMeta && (m.Key == expr.MetaKeyNFPROTO || m.Key == expr.MetaKeyL4PROTO) && slices.ContainsFunc(all, func(e expr.Any) bool {
			seen, ok := e.(*expr.Meta)
			return ok && seen.Key == m.Key
		}) {
			i++ // the comparison
			continue
		}
		all = append(all, more[i])
	}
	return all
}

// addStates makes the map of a rule.
func addStates(c *nftables.Conn, t *nftables.Table, states []stateVerdict) (*nftables.Set, error) {
	set := &nftables.Set{Table: t, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeCTState, DataType: nftables.TypeVerdict}
	var elements []nftables.SetElement
	for _, s := range states {
		elements = append(elements, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(nil, s.state), VerdictData: &expr.Verdict{Kind: s.verdict}})
	}
	return set, c.AddSet(set, elements)
}
