package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// TestLookup asks a real server: all addresses, through aliases, with how long
// they hold; what it does not know; and nobody at all.
func TestLookup(t *testing.T) {
	args := []string{"--auth-server=ns.example.org,lo", "--auth-zone=example.org", "--auth-ttl=7",
		"--auth-soa=7,hostmaster.example.org,1200,180,5", "--txt-record=text.example.org,x",
		"--host-record=vpn.example.org,192.0.2.10,2001:db8::10", "--cname=alias.example.org,vpn.example.org"}
	for i := range 100 {
		args = append(args, fmt.Sprintf("--host-record=many.example.org,198.51.100.%d", i))
	}
	s, _ := start(t, Options{Timeout: 2 * time.Second}, to(dnsmasq(t, args...)))
	for _, c := range []struct {
		name string
		want int
		ttl  time.Duration
		err  error
	}{
		{"vpn.example.org", 1, 7 * time.Second, nil},
		{"alias.example.org.", 1, 7 * time.Second, nil},
		{"MANY.example.org", 100, 7 * time.Second, nil}, // does not fit UDP
		{"none.example.org", 0, 7 * time.Second, ErrNoName},
		{"text.example.org", 0, 7 * time.Second, ErrNoAddress},
	} {
		got, ttl, err := s.Lookup(t.Context(), c.name)
		if len(got) != c.want || ttl != c.ttl || !errors.Is(err, c.err) {
			t.Errorf("%s: %v for %v, %v; want %d for %v, %v", c.name, got, ttl, err, c.want, c.ttl, c.err)
		}
		if c.want == 1 && (len(got) != 1 || got[0] != netip.MustParseAddr("192.0.2.10")) {
			t.Errorf("%s is %v", c.name, got)
		}
	}
	misses := s.Stats().Misses
	if got, ttl, err := s.Lookup(t.Context(), "vpn.example.org"); len(got) != 1 || ttl > 7*time.Second || err != nil || s.Stats().Misses != misses {
		t.Errorf("from the cache: %v for %v, %v; %d misses", got, ttl, err, s.Stats().Misses-misses)
	}
	for _, name := range []string{"", "a..b", strings.Repeat("x", 64) + ".example", strings.Repeat("abc.", 70)} {
		if _, _, err := s.Lookup(t.Context(), name); err == nil || !strings.Contains(err.Error(), "is no DNS name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	s.SetConfig(Config{})
	if _, _, err := s.Lookup(t.Context(), "vpn.example.org"); err == nil || err.Error() != "no name server is known yet" {
		t.Errorf("without upstreams: %v", err)
	}
	s.SetConfig(to(&peer{addr: closedPort(t)}))
	if _, _, err := s.Lookup(t.Context(), "other.example.org"); err == nil || err.Error() != "no name server answers" {
		t.Errorf("nobody there: %v", err)
	}
	s.SetConfig(to(newPeer(t, func(mdns.ResponseWriter, *mdns.Msg) {})))
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, _, err := s.Lookup(ctx, "silent.example.org"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent server: %v", err)
	}
}
