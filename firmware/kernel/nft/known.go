package nft

import (
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/ruleset"
)

// knowledge is what need not be read from the kernel: every transaction of
// nf_tables in a network namespace, whoever makes it, makes the next generation
// (NFTA_GEN_ID). As long as all of those since the table was read are our own,
// the table is what they made of it.
type knowledge struct {
	table *ruleset.Table // nil: not known, or there is none (see known)
	known bool
	gen   uint32 // of which table was read
	own   uint32 // transactions of ours since then

	// written is what Apply wrote last when it was more than elements: that is
	// only believed when it has been read back. It is nil once it has been.
	written *ruleset.Table
}

func (k *knowledge) forget() { k.table, k.known, k.written = nil, false, nil }

// current tells whether table is what the kernel has in generation gen.
func (k *knowledge) current(gen uint32) bool { return k.known && gen == k.gen+k.own }

// wrote takes note of a transaction that turned from into to.
func (k *knowledge) wrote(from, to *ruleset.Table, b *batch) {
	switch {
	case k.known && from != nil && from == k.table && b.onlyElements():
		k.table = to
	case len(b.msgs) > 0:
		k.forget()
		k.written = to
	}
}

// read takes note of what the kernel has.
func (k *knowledge) read(t *ruleset.Table, gen uint32) *ruleset.Table {
	k.table, k.known, k.gen, k.own, k.written = t, true, gen, 0, nil
	return t
}

// Agreed tells that seen, as Observe gave it, was found equal to want: from now
// on Observe gives want, which is cheaper to compare.
func (c *Conn) Agreed(want, seen *ruleset.Table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen.known && c.seen.table == seen {
		c.seen.table = want
	}
}

// onlyElements tells whether the batch changes nothing but elements of sets:
// the kernel keeps those as they are sent, or refuses them.
func (b *batch) onlyElements() bool {
	for _, m := range b.msgs {
		if t := m.Header.Type; t != nftType(unix.NFT_MSG_NEWSETELEM) && t != nftType(unix.NFT_MSG_DELSETELEM) {
			return false
		}
	}
	return true
}
