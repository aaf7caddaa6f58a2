package nft

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// DropAll loads the ruleset of a router that is not configured yet: nothing
// comes in but over lo, nothing is forwarded. init calls it before any link
// goes up; netd's first Apply replaces it in one transaction.
func DropAll() error { return New(Options{}).Apply(nil, dropAll()) }

func dropAll() *ruleset.Table {
	accept := ruleset.Verdict{Kind: ruleset.Accept}
	return &ruleset.Table{Chains: []ruleset.Chain{
		{Name: "input", Type: "filter", Hook: ruleset.Input, Drop: true, Rules: []ruleset.Rule{
			ruleset.R("the router itself", ruleset.Iif{Name: "lo"}, accept)}},
		{Name: "forward", Type: "filter", Hook: ruleset.Forward, Drop: true},
	}}
}

// Apply turns the table from (as Observe gave it; nil when there is none, or
// to start anew) into to (nil removes it), in one transaction. Sets, maps and
// flowtables whose definition stays are kept with what was learnt in them;
// configured sets change by element, and chains are rewritten whose rules
// differ; all are when something that rules refer to has to be made anew. Errors name the objects that the kernel refused;
// after an error nothing has changed.
func (c *Conn) Apply(from, to *ruleset.Table) error {
	b := &batch{}
	anew := from == nil
	var fromIP, toIP *ruleset.Table
	if from != nil {
		fromIP = from.IP
	}
	if to != nil {
		toIP = to.IP
	}
	for _, t := range []struct {
		family   uint8
		from, to *ruleset.Table
	}{{unix.NFPROTO_INET, from, to}, {unix.NFPROTO_IPV4, fromIP, toIP}} {
		b.family = t.family
		if err := b.change(t.from, t.to, anew); err != nil {
			return fmt.Errorf("nft: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.commit(b); err != nil {
		return err
	}
	c.seen.wrote(from, to, b)
	return nil
}

// change appends what turns a table into another. anew: whether it exists is
// not known.
func (b *batch) change(from, to *ruleset.Table, anew bool) error {
	switch {
	case to == nil && from != nil:
		b.table(unix.NFT_MSG_DELTABLE)
		return nil
	case to == nil && !anew:
		return nil
	case from == nil:
		// Add, delete, add: right whether it exists or not.
		b.table(unix.NFT_MSG_NEWTABLE)
		b.table(unix.NFT_MSG_DELTABLE)
		if to == nil {
			return nil
		}
		b.table(unix.NFT_MSG_NEWTABLE)
		from = &ruleset.Table{}
	}
	p := planChange(from, to)
	p.remove(b)
	return p.add(b)
}

// change is what Apply does about each object.
type change struct {
	from, to *ruleset.Table
	rewrite  bool // all rules, because something they may refer to is made anew

	keepChain, keepSet, keepHelper, keepFlowtable map[string]bool // defined alike on both sides
	keepRules                                     map[string]bool // of chains
	elements                                      map[string]elementChange
}

// elementChange is what becomes of the elements of a set that is kept.
type elementChange struct{ add, del []ruleset.Element }

func planChange(from, to *ruleset.Table) *change {
	p := &change{from: from, to: to, rewrite: len(from.Foreign) > 0,
		keepRules: map[string]bool{}, keepChain: map[string]bool{}, keepSet: map[string]bool{}, keepHelper: map[string]bool{}, keepFlowtable: map[string]bool{},
		elements: map[string]elementChange{}}
	for _, c := range to.Chains {
		if f := from.Chain(c.Name); f != nil {
			p.keepChain[c.Name] = f.Type == c.Type && f.Hook == c.Hook && f.Priority == c.Priority
			p.keepRules[c.Name] = ruleset.SameRules(c, *f)
			p.rewrite = p.rewrite || !p.keepChain[c.Name]
		}
	}
	for _, s := range to.Sets {
		if f := from.Set(s.Name); f != nil {
			p.keepSet[s.Name] = s.SameShape(*f)
			p.rewrite = p.rewrite || !p.keepSet[s.Name]
			if add, del := s.ElementDiff(*f); p.keepSet[s.Name] && len(add)+len(del) > 0 {
				p.elements[s.Name] = elementChange{add, del}
			}
		}
	}
	for _, h := range to.Helpers {
		if i := slices.IndexFunc(from.Helpers, func(f ruleset.Helper) bool { return f.Name == h.Name }); i >= 0 {
			p.keepHelper[h.Name] = from.Helpers[i] == h
			p.rewrite = p.rewrite || !p.keepHelper[h.Name]
		}
	}
	for _, f := range to.Flowtables {
		if old := flowtable(from, f.Name); old != nil {
			p.keepFlowtable[f.Name] = old.Counter == f.Counter
			p.rewrite = p.rewrite || !p.keepFlowtable[f.Name]
		}
	}
	if p.rewrite {
		clear(p.keepRules)
	}
	return p
}

func flowtable(t *ruleset.Table, name string) *ruleset.Flowtable {
	for i := range t.Flowtables {
		if t.Flowtables[i].Name == name {
			return &t.Flowtables[i]
		}
	}
	return nil
}

// remove deletes what goes, users before what they use: rules, elements (of
// verdict maps), sets, objects, chains.
func (p *change) remove(b *batch) {
	for _, c := range p.from.Chains {
		if !p.keepRules[c.Name] {
			b.flushChain(c.Name)
		}
	}
	for _, s := range p.to.Sets {
		b.elements(unix.NFT_MSG_DELSETELEM, s, 0, p.elements[s.Name].del)
	}
	for _, s := range p.from.Sets {
		if !p.keepSet[s.Name] {
			b.delSet(s.Name)
		}
	}
	for _, h := range p.from.Helpers {
		if !p.keepHelper[h.Name] {
			b.delObject(unix.NFT_OBJECT_CT_HELPER, h.Name)
		}
	}
	for _, o := range p.from.Foreign {
		b.delObject(o.Type, o.Name)
	}
	for _, f := range p.from.Flowtables {
		if !p.keepFlowtable[f.Name] {
			b.delFlowtable(f.Name)
		} else if gone := without(f.Devices, flowtable(p.to, f.Name).Devices); len(gone) > 0 {
			b.flowtable(msgDelFlowtable, ruleset.Flowtable{Name: f.Name, Devices: gone})
		}
	}
	for _, c := range p.from.Chains {
		if !p.keepChain[c.Name] {
			b.delChain(c.Name)
		}
	}
}

// add makes what is new, what is used before its users.
func (p *change) add(b *batch) error {
	for _, c := range p.to.Chains {
		if f := p.from.Chain(c.Name); !p.keepChain[c.Name] || f.Drop != c.Drop {
			b.newChain(c)
		}
	}
	for _, h := range p.to.Helpers {
		if !p.keepHelper[h.Name] {
			b.newHelper(h)
		}
	}
	for i, s := range p.to.Sets {
		if id := uint32(i + 1); !p.keepSet[s.Name] {
			b.newSet(s, id)
			b.elements(unix.NFT_MSG_NEWSETELEM, s, id, s.Elements)
		} else {
			b.elements(unix.NFT_MSG_NEWSETELEM, s, 0, p.elements[s.Name].add)
		}
	}
	for _, f := range p.to.Flowtables {
		if !p.keepFlowtable[f.Name] {
			b.flowtable(msgNewFlowtable, f)
		} else if added := without(f.Devices, flowtable(p.from, f.Name).Devices); len(added) > 0 {
			b.flowtable(msgNewFlowtable, ruleset.Flowtable{Name: f.Name, Devices: added, Counter: f.Counter})
		}
	}
	for _, c := range p.to.Chains {
		if p.keepRules[c.Name] {
			continue
		}
		for i, r := range c.Rules {
			if err := b.newRule(c.Name, i+1, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// without is a less what is in b.
func without(a, b []string) []string {
	var out []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}
