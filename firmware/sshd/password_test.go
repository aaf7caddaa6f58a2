package sshd

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

const good = "correct horse battery"

// cheap is a hash of good that costs little: m = 64 KiB, one pass.
const cheap = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$"

func cheapHash() string { return cheap + cheapKey(good) }

func TestHashAndVerify(t *testing.T) {
	h, err := HashPassword(good, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(h, "$argon2id$v=19$m=8192,t=2,p=1$") {
		t.Errorf("hash %s", h)
	}
	if err := VerifyPassword(h, good); err != nil {
		t.Errorf("the right password: %v", err)
	}
	if err := VerifyPassword(h, good+"x"); !errors.Is(err, errWrong) {
		t.Errorf("a wrong password: %v", err)
	}
	other, err := HashPassword(good, rand.Reader)
	if err != nil || other == h {
		t.Errorf("two hashes of one password are equal: %s, %v", other, err)
	}
}

func TestDamagedHashesAreRefused(t *testing.T) {
	for _, h := range []string{
		"", "x", "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=1048576,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA", // 1 GiB
		"$argon2id$v=19$m=64,t=1000,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=0,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1,p=0$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1,p=1$!!$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$",
	} {
		if err := VerifyPassword(h, ""); err == nil || errors.Is(err, errWrong) {
			t.Errorf("%q: %v, want a reason", h, err)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	for _, p := range []string{good, "Tr0ub4dor&3 is weak", "ÄÖÜäöüß€éèêë", "my-admin-lives-here"} {
		if err := CheckPassword(p, "culvert"); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{"", "eleven char", "aaaaaaaaaaaaaa", "123456789012", "admin1234567", "adminadminadmin", "Password12345!",
		"culvert-2026-!!", "abcdefghijklmno", "            ", strings.Repeat("long", 100)} {
		if err := CheckPassword(p, "culvert"); err == nil {
			t.Errorf("%q was taken", p)
		}
	}
	if err := CheckPassword("gatekeeper-2026", "gatekeeper"); err == nil {
		t.Error("the host name was taken")
	}
}

// ticker is a clock that stands still until told.
type ticker struct {
	mu sync.Mutex
	t  time.Time
}

func (c *ticker) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *ticker) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestGateSlowsWrongPasswords(t *testing.T) {
	c := &ticker{t: time.Unix(1000, 0)}
	g := NewGate(c.now)
	a, b := netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("192.168.1.6")
	h, ctx := cheapHash(), context.Background()
	for range freeTries {
		if err := g.Verify(ctx, a, h, "wrong"); !errors.Is(err, errWrong) {
			t.Fatal(err)
		}
	}
	var slow *SlowError
	for want := firstDelay; want < maxDelay; want = min(2*want, maxDelay) {
		err := g.Verify(ctx, a, h, good) // the right one is not looked at either
		if !errors.As(err, &slow) || slow.Wait != want {
			t.Fatalf("after wrong passwords: %v, want a wait of %v", err, want)
		}
		if err := g.Verify(ctx, netip.MustParseAddr("::ffff:192.168.1.5"), h, good); !errors.As(err, &slow) {
			t.Fatalf("another form of the address: %v", err)
		}
		if err := g.Verify(ctx, b, h, good); err != nil {
			t.Fatalf("another address: %v", err)
		}
		c.add(want)
		if err := g.Verify(ctx, a, h, "wrong"); !errors.Is(err, errWrong) {
			t.Fatalf("after the wait: %v", err)
		}
	}
	c.add(maxDelay)
	if err := g.Verify(ctx, a, h, good); err != nil {
		t.Fatal(err)
	}
	if err := g.Verify(ctx, a, h, "wrong"); !errors.Is(err, errWrong) {
		t.Errorf("a right password did not clear the address: %v", err)
	}
}

func TestGateRemembersFewAddresses(t *testing.T) {
	c := &ticker{t: time.Unix(1000, 0)}
	g := NewGate(c.now)
	a := netip.MustParseAddr("10.0.0.0")
	for range 3 * maxSlowed {
		a = a.Next()
		g.note(a, false)
		c.add(time.Millisecond)
	}
	if len(g.from) > maxSlowed {
		t.Errorf("%d addresses remembered, at most %d are allowed", len(g.from), maxSlowed)
	}
	if g.from[a] == nil {
		t.Error("the latest address was forgotten")
	}
}

func TestGateCountsAWholeIPv6Network(t *testing.T) {
	c := &ticker{t: time.Unix(1000, 0)}
	g := NewGate(c.now)
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"} {
		g.note(network(netip.MustParseAddr(a)), false)
	}
	var slow *SlowError
	if err := g.Verify(context.Background(), netip.MustParseAddr("2001:db8::4"), cheapHash(), good); !errors.As(err, &slow) {
		t.Errorf("a neighbour's address: %v", err)
	}
}
