package dhcp4d

import (
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"time"
)

type bindingState int

const (
	offered bindingState = iota
	leased
	abandoned // somebody uses it who did not get it from us
)

const (
	offerHold   = time.Minute
	offerSteal  = 5 * time.Second // a client takes an offer in much less
	abandonHold = 10 * time.Minute
	// maxBindings bounds memory when a host makes up clients in a big pool.
	maxBindings = 2048
	maxFormer   = 4
)

// binding ties an address to a client. A lease that ran out stays: the client
// gets the address again unless all others are taken.
type binding struct {
	key   string // of the client
	mac   string
	id    []byte
	addr  netip.Addr
	name  string
	state bindingState
	// until is the end of the offer, lease or abandonment, on the monotonic
	// clock: setting the wall clock changes no lease.
	until time.Time
	// saved is the end that the store knows; zero when it knows nothing.
	saved   time.Time
	probing bool // an ARP probe for the offer is under way
}

// client is who sent a message.
type client struct {
	key  string // client identifier, or hardware address without one
	mac  string
	hw   net.HardwareAddr
	id   []byte
	host string // as it calls itself
}

// table is who has which address. It does no I/O; its owner locks it.
type table struct {
	cfg    Config
	now    func() time.Time
	static map[string]Static // by MAC
	fixed  map[netip.Addr]string
	byAddr map[netip.Addr]*binding
	byKey  map[string]*binding

	former  []netip.Prefix      // what cfg.Router was before, the latest last
	dirty   map[netip.Addr]bool // differ from the store
	changed bool                // the list of leases is another one
}

func newTable(cfg Config, now func() time.Time) *table {
	t := &table{
		now: now, byAddr: map[netip.Addr]*binding{}, byKey: map[string]*binding{}, dirty: map[netip.Addr]bool{},
	}
	t.setConfig(cfg)
	return t
}

func (t *table) setConfig(cfg Config) {
	t.cfg = cfg
	t.static, t.fixed = map[string]Static{}, map[netip.Addr]string{}
	for _, s := range cfg.Static {
		t.static[s.MAC.String()] = s
		if s.Addr.IsValid() {
			t.fixed[s.Addr] = s.MAC.String()
		}
	}
}

// place is a device's fixed address, false when it has none.
func (t *table) place(mac string) (netip.Addr, bool) {
	a := t.static[mac].Addr
	return a, a.IsValid()
}

// reconfigure takes a new configuration. When the subnet is another one the
// leases follow, with their host part where it fits.
func (t *table) reconfigure(cfg Config) {
	old := t.cfg.Router
	t.setConfig(cfg)
	t.unname()
	t.changed = true
	if old != cfg.Router {
		t.former = append(t.former, old)
		t.former = t.former[max(len(t.former)-maxFormer, 0):]
	}
	if old.Masked() == cfg.Router.Masked() {
		for _, b := range t.byAddr {
			if s, ok := t.static[b.mac]; ok && s.Name != "" && b.name != s.Name {
				b.name, t.dirty[b.addr] = s.Name, true
			}
		}
		return
	}
	all := t.sorted()
	for _, b := range all {
		t.remove(b)
	}
	for _, b := range all {
		if b.state != leased {
			continue
		}
		to := t.follow(b.mac, b.addr)
		c := client{key: b.key, mac: b.mac}
		if !t.permitted(c, to) || t.byAddr[to] != nil {
			continue
		}
		b.addr = to
		t.insert(b)
		t.dirty[to] = true
	}
}

// follow returns the address in the LAN for a lease from another subnet: the
// device's fixed one, or the one with the same host part.
func (t *table) follow(mac string, addr netip.Addr) netip.Addr {
	if a, ok := t.place(mac); ok {
		return a
	}
	return addrOf(num(t.cfg.Router.Masked().Addr()) | num(addr)&hostMask(t.cfg.Router))
}

// isSelf reports whether id is or was this server.
func (t *table) isSelf(id netip.Addr) bool {
	return id == t.cfg.Router.Addr() || slices.ContainsFunc(t.former, func(p netip.Prefix) bool { return p.Addr() == id })
}

// serverFor is this server as the holder of addr knows it.
func (t *table) serverFor(addr netip.Addr) netip.Addr {
	if !t.cfg.Router.Contains(addr) {
		for _, p := range slices.Backward(t.former) {
			if p.Contains(addr) {
				return p.Addr()
			}
		}
	}
	return t.cfg.Router.Addr()
}

func (t *table) insert(b *binding) {
	t.byAddr[b.addr], t.byKey[b.key] = b, b
}

func (t *table) remove(b *binding) {
	delete(t.byAddr, b.addr)
	if t.byKey[b.key] == b {
		delete(t.byKey, b.key)
	}
	if !b.saved.IsZero() {
		t.dirty[b.addr] = true
		b.saved = time.Time{}
	}
	if b.state == leased {
		t.changed = true
	}
}

// live reports whether the binding still holds.
func (t *table) live(b *binding) bool { return t.now().Before(b.until) }

// permitted reports whether the configuration lets the client have addr.
func (t *table) permitted(c client, addr netip.Addr) bool {
	if !t.cfg.isHost(addr) || addr == t.cfg.Router.Addr() {
		return false
	}
	if mac, ok := t.fixed[addr]; ok {
		return mac == c.mac
	}
	// A device with a fixed address belongs there, unless that is taken.
	if a, ok := t.place(c.mac); ok && !t.occupied(c, a) {
		return false
	}
	return t.cfg.inPool(addr)
}

// occupied reports whether somebody else holds addr.
func (t *table) occupied(c client, addr netip.Addr) bool {
	b := t.byAddr[addr]
	return b != nil && b.key != c.key && t.live(b) && !(t.fixed[addr] == c.mac && b.mac == c.mac)
}

// choose finds the address to offer and holds it (RFC 2131 section 4.3.1).
// Fresh ones were not this client's before. It returns nil when there is none.
func (t *table) choose(c client, want netip.Addr) (b *binding, fresh bool) {
	if a, ok := t.place(c.mac); ok && !t.occupied(c, a) {
		if b := t.byAddr[a]; b != nil && b.state != abandoned {
			return b, false
		}
		return t.hold(c, a), false
	}
	if b := t.byKey[c.key]; b != nil && t.permitted(c, b.addr) {
		if b.state == offered {
			b.until = t.now().Add(offerHold)
		}
		return b, false
	}
	// A lease that is to move keeps its place in byKey until the client moves.
	if t.byKey[c.key] != nil {
		for _, b := range t.byAddr {
			if b.key == c.key && b.state == offered && t.permitted(c, b.addr) {
				b.until = t.now().Add(offerHold)
				return b, false
			}
		}
	}
	addr := want
	if !t.free(c, addr) {
		addr = t.unused(c)
	}
	if !addr.IsValid() {
		return nil, false
	}
	return t.hold(c, addr), true
}

func (t *table) free(c client, addr netip.Addr) bool {
	return addr.IsValid() && len(t.byAddr) < maxBindings && t.byAddr[addr] == nil && t.permitted(c, addr)
}

// unused searches the pool from a place that depends on the client, so that
// it gets the same address even from a server that has forgotten everything.
// With none free it takes what has been over for the longest time.
func (t *table) unused(c client) netip.Addr {
	first, last := num(t.cfg.PoolStart), num(t.cfg.PoolEnd)
	size := last - first + 1
	h := fnv.New32a()
	h.Write([]byte(c.key))
	start := h.Sum32() % size
	for i := uint32(0); i < size && len(t.byAddr) < maxBindings; i++ {
		if a := addrOf(first + (start+i)%size); t.free(c, a) {
			return a
		}
	}
	var oldest *binding
	now := t.now()
	for _, b := range t.byAddr {
		end := b.until
		if b.state == offered && !b.probing {
			end = end.Add(offerSteal - offerHold)
		}
		if now.Before(end) || !t.permitted(c, b.addr) {
			continue
		}
		if oldest == nil || b.state == offered && oldest.state != offered ||
			b.state == oldest.state && b.until.Before(oldest.until) {
			oldest = b
		}
	}
	if oldest == nil {
		return netip.Addr{}
	}
	t.remove(oldest)
	return oldest.addr
}

// hold makes an offer's binding.
func (t *table) hold(c client, addr netip.Addr) *binding {
	if old := t.byAddr[addr]; old != nil {
		t.remove(old)
	}
	b := &binding{key: c.key, mac: c.mac, id: c.id, addr: addr, until: t.now().Add(offerHold)}
	t.byAddr[addr] = b
	// A lease elsewhere stays the client's until it takes the offer.
	if own := t.byKey[c.key]; own == nil || own.state == offered {
		if own != nil {
			t.remove(own)
		}
		t.byKey[c.key] = b
	}
	return b
}

// available reports whether a client that asks for addr may have it: it is
// the client's own, or nobody's.
func (t *table) available(c client, addr netip.Addr) bool {
	if !t.permitted(c, addr) {
		return false
	}
	b := t.byAddr[addr]
	switch {
	case b == nil:
		return len(t.byAddr) < maxBindings
	case b.state == abandoned:
		return !t.live(b)
	}
	return b.key == c.key || t.fixed[addr] == c.mac && !t.occupied(c, addr)
}

// grant gives addr to the client, which has to be available to it.
func (t *table) grant(c client, addr netip.Addr) *binding {
	if own := t.byKey[c.key]; own != nil && own.addr != addr {
		t.remove(own)
	}
	b := t.byAddr[addr]
	if b != nil && (b.key != c.key || b.state == abandoned) {
		t.remove(b)
		b = nil
	}
	if b == nil {
		b = &binding{key: c.key, addr: addr}
	}
	name := b.name
	if n := t.nameFor(c); n != "" || c.host != "" { // some renew without their name
		name = n
	}
	if b.state != leased || !t.live(b) || b.name != name || b.mac != c.mac {
		t.changed = true
		t.dirty[addr] = true
	}
	b.mac, b.id, b.name, b.state, b.probing = c.mac, c.id, name, leased, false
	b.until = t.now().Add(t.cfg.lease())
	if b.saved.Before(b.until) {
		t.dirty[addr] = true
	}
	t.insert(b)
	return b
}

// release ends a lease at the client's wish; the address stays its own.
func (t *table) release(c client, addr netip.Addr) bool {
	b := t.byKey[c.key]
	if b == nil || b.addr != addr || b.state != leased {
		return false
	}
	b.until = t.now()
	t.changed = true
	t.dirty[addr] = true
	return true
}

// abandon takes an address out of use that somebody uses without a lease.
// Half of the pool at most: a client that declines everything must not take
// all of it away.
func (t *table) abandon(b *binding) {
	t.remove(b)
	n := uint32(0)
	for _, o := range t.byAddr {
		if o.state == abandoned && t.live(o) {
			n++
		}
	}
	if n >= (num(t.cfg.PoolEnd)-num(t.cfg.PoolStart)+1)/2 || t.fixed[b.addr] != "" {
		return
	}
	t.byAddr[b.addr] = &binding{addr: b.addr, state: abandoned, until: t.now().Add(abandonHold)}
}

// withdraw ends the offer to a client that took another server's.
func (t *table) withdraw(c client) {
	if b := t.byKey[c.key]; b != nil && b.state == offered {
		t.remove(b)
	}
}

// sorted returns all bindings by address.
func (t *table) sorted() []*binding {
	all := make([]*binding, 0, len(t.byAddr))
	for _, b := range t.byAddr {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b *binding) int { return a.addr.Compare(b.addr) })
	return all
}

// leases returns the leases that hold, by address.
func (t *table) leases() []Lease {
	now := t.now()
	out := []Lease{}
	for _, b := range t.sorted() {
		if b.state == leased && now.Before(b.until) {
			out = append(out, t.lease(b, now))
		}
	}
	return out
}

// lease is the binding for others, its end on the wall clock of this moment.
func (t *table) lease(b *binding, now time.Time) Lease {
	return Lease{
		MAC: b.mac, ClientID: b.id, Addr: b.addr, Hostname: b.name,
		Expires: now.Round(0).Add(b.until.Sub(now)), Static: t.fixed[b.addr] != "" && t.fixed[b.addr] == b.mac,
	}
}

// sameLease compares what OnChange is about: all but the end.
func sameLease(a, b Lease) bool {
	return a.Addr == b.Addr && a.MAC == b.MAC && a.Hostname == b.Hostname && a.Static == b.Static
}
