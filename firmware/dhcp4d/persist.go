package dhcp4d

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Lease is an address that a client has.
type Lease struct {
	MAC      string     `json:"mac"`
	ClientID []byte     `json:"client-id,omitempty"` // option 61 as sent
	Addr     netip.Addr `json:"addr"`
	Hostname string     `json:"hostname,omitempty"` // a DNS label, unique
	// Expires is on the wall clock of the moment it was asked for. In the
	// store it is up to one lease time later than promised to the client, so
	// that not every renewal has to be written.
	Expires time.Time `json:"expires"`
	Static  bool      `json:"static,omitempty"`
}

// Store keeps leases over a restart. Each call should be one transaction: the
// server collects what there is to write, to spare flash.
type Store interface {
	Load() ([]Lease, error)
	// Save writes leases; one with the same address is replaced.
	Save([]Lease) error
	// Delete removes the leases of addresses; unknown ones are no error.
	Delete([]netip.Addr) error
}

// clockless: before this the clock was never set. Boards without a clock of
// their own start in 1970, or at the last time they knew.
var clockless = time.Unix(1577836800, 0) // 2020-01-01

const (
	saveDelay = 2 * time.Second // a LAN that comes up is one write
	saveRetry = time.Minute     // after an error, a full disk for example
	// clockStep is a jump of the wall clock that makes stored ends wrong.
	clockStep = time.Minute
)

// load fills the table. Remaining times are limited to a lease time, and with
// a clock that cannot be right a lease counts from now: a lease that lives
// too long costs an address for some hours, one that ends too early could be
// given to a second client.
func (t *table) load(leases []Lease) {
	now := t.now()
	for _, l := range leases {
		if !l.Addr.Is4() {
			continue
		}
		if !t.cfg.Router.Contains(l.Addr) { // the LAN was moved meanwhile
			t.dirty[l.Addr] = true
			l.Addr = t.follow(l.MAC, l.Addr)
			t.dirty[l.Addr] = true
		}
		c := client{key: keyOf(l.ClientID, l.MAC), mac: l.MAC, id: l.ClientID}
		if !t.permitted(c, l.Addr) || t.byAddr[l.Addr] != nil || t.byKey[c.key] != nil {
			t.dirty[l.Addr] = true
			continue
		}
		left := l.Expires.Sub(now.Round(0))
		if now.Before(clockless) || l.Expires.Before(clockless) {
			left = t.cfg.LeaseTime
		}
		b := &binding{
			key: c.key, mac: l.MAC, id: l.ClientID, addr: l.Addr, name: label(l.Hostname), state: leased,
			until: now.Add(min(max(left, 0), t.cfg.LeaseTime)), saved: now.Add(max(left, 0)),
		}
		t.insert(b)
	}
	t.unname()
	t.changed = true
}

// pending returns what differs from the store and takes it as written.
func (t *table) pending() (save []Lease, del []netip.Addr) {
	now := t.now()
	for _, addr := range slices.SortedFunc(maps.Keys(t.dirty), netip.Addr.Compare) {
		b := t.byAddr[addr]
		if b == nil || b.state != leased || !t.live(b) {
			del = append(del, addr)
			continue
		}
		l := t.lease(b, now)
		l.Expires = l.Expires.Add(t.cfg.LeaseTime)
		b.saved = b.until.Add(t.cfg.LeaseTime)
		save = append(save, l)
	}
	clear(t.dirty)
	return save, del
}

// rewrite marks all leases for writing, after the clock was set.
func (t *table) rewrite() {
	for addr, b := range t.byAddr {
		if b.state == leased && t.live(b) {
			t.dirty[addr] = true
		}
	}
}

// flush writes what changed. On an error all of it waits for the next time.
func (s *Server) flush() error {
	s.mu.Lock()
	save, del := s.t.pending()
	s.mu.Unlock()
	var err error
	if len(del) > 0 {
		err = s.o.Store.Delete(del)
	}
	if err == nil && len(save) > 0 {
		err = s.o.Store.Save(save)
	}
	if err != nil {
		s.mu.Lock()
		for _, l := range save {
			s.t.dirty[l.Addr] = true
		}
		for _, a := range del {
			s.t.dirty[a] = true
		}
		s.mu.Unlock()
	}
	return err
}
