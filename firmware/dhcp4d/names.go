package dhcp4d

import (
	"slices"
	"strconv"
	"strings"
)

const maxLabel = 63

// label makes a DNS label out of what a client calls itself: the part before
// the first dot, lower case, everything but letters, digits and hyphens
// replaced. It is empty when nothing is left.
func label(s string) string {
	s, _, _ = strings.Cut(strings.ToLower(s), ".")
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < maxLabel; i++ {
		switch c := s[i]; {
		case c == 0:
			i = len(s)
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b.WriteByte(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}

// reserved reports whether a client must not be called name: names that
// programs look up and trust without being told to, and the configured ones.
func (c *Config) reserved(name string) bool {
	switch name {
	case "localhost", "wpad", "isatap":
		return true
	}
	return slices.ContainsFunc(c.Reserved, func(r string) bool { return strings.EqualFold(r, name) })
}

// squats reports whether a client wants a name that it must not have.
func (t *table) squats(c client) bool {
	return t.static[c.mac].Name == "" && t.cfg.reserved(label(c.host))
}

// unname takes the names from leases that became reserved since, by another
// name of the router for example.
func (t *table) unname() {
	for _, b := range t.byAddr {
		if b.name != "" && t.static[b.mac].Name == "" && t.cfg.reserved(b.name) {
			b.name, t.changed = "", true
			t.dirty[b.addr] = true
		}
	}
}

// nameFor returns the name for a client: the configured one of its device, or
// its own made unique among the fixed and the leased names.
func (t *table) nameFor(c client) string {
	if s, ok := t.static[c.mac]; ok && s.Name != "" {
		return s.Name
	}
	base := label(c.host)
	if base == "" || t.cfg.reserved(base) {
		return ""
	}
	taken := map[string]bool{}
	for mac, s := range t.static {
		taken[s.Name] = mac != c.mac
	}
	for _, b := range t.byAddr {
		if b.state == leased && b.key != c.key && t.now().Before(b.until) {
			taken[b.name] = true
		}
	}
	name := base
	for n := 2; taken[name] || t.cfg.reserved(name); n++ {
		suffix := "-" + strconv.Itoa(n)
		name = base[:min(len(base), maxLabel-len(suffix))] + suffix
	}
	return name
}
