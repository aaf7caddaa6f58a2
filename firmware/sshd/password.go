package sshd

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
)

// Cost of a new hash: 8 MiB is what a board with 64 MB can spare, two passes
// take about a second on a slow MIPS.
const (
	argonMemory = 8 << 10 // KiB
	argonPasses = 2
	argonSalt   = 16
	argonKey    = 32
	// maxPasses bounds the work that a hash in imported settings may ask for.
	maxPasses = 8
	minLength = 12 // of a password, in characters
	maxLength = 256
)

// errWrong is a wrong password.
var errWrong = say("That is not the password.")

// CheckPassword says why a new password is not good enough.
func CheckPassword(password, hostname string) error {
	n := 0
	same := true
	var first rune
	for i, r := range password {
		if i == 0 {
			first = r
		}
		same = same && r == first
		n++
	}
	low := strings.ToLower(password)
	switch {
	case n < minLength:
		return say("The password has %d characters; it must have 12 or more. Four random words do well.", n)
	case len(password) > maxLength:
		return say("The password is longer than %d bytes.", maxLength)
	case same, trivial(low, strings.ToLower(hostname)):
		return say("That password is among the first that anybody would try. Four random words do well.")
	}
	return nil
}

// trivial tells whether a password is one word that everybody knows, with
// nothing but digits, signs or itself after it, or a run of neighbours.
func trivial(low, hostname string) bool {
	core := strings.Trim(low, "0123456789!?.-_ ")
	for _, w := range []string{hostname, "", "admin", "administrator", "password", "passwort", "culvert", "router", "letmein", "welcome", "changeme", "secret", "qwertyuiop"} {
		if core == w || w != "" && strings.Trim(strings.ReplaceAll(core, w, ""), "0123456789!?.-_ ") == "" {
			return true
		}
	}
	return strings.Contains("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz", core)
}

// hashing lets one argon2 computation run at a time: two would need 16 MiB.
var hashing sync.Mutex

// HashPassword makes an argon2id hash in PHC string form with salt from random.
func HashPassword(password string, random io.Reader) (string, error) {
	salt := make([]byte, argonSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("password salt: %w", err)
	}
	key := derive(password, salt, argonPasses, argonMemory, 1, argonKey)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonPasses,
		b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

func derive(password string, salt []byte, t, m uint32, p uint8, n int) []byte {
	hashing.Lock()
	defer hashing.Unlock()
	key := argon2.IDKey([]byte(password), salt, t, m, p, uint32(n))
	debug.FreeOSMemory() // give the 8 MiB back at once
	return key
}

// VerifyPassword checks a password against a PHC string.
func VerifyPassword(phc, password string) error {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return errors.New("the stored password is not an argon2id hash")
	}
	var m, t, p uint32
	for kv := range strings.SplitSeq(parts[3], ",") {
		k, v, _ := strings.Cut(kv, "=")
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("the stored password's parameters: %w", err)
		}
		switch k {
		case "m":
			m = uint32(n)
		case "t":
			t = uint32(n)
		case "p":
			p = uint32(n)
		}
	}
	if m < 8 || m > argonMemory || t < 1 || t > maxPasses || p < 1 || p > 4 {
		return fmt.Errorf("the stored password's parameters %s are beyond what this router computes", parts[3])
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return fmt.Errorf("the stored password's salt: %w", err)
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(want) < 16 || len(want) > 64 {
		return errors.New("the stored password's hash is damaged")
	}
	if len(password) > maxLength {
		return errWrong
	}
	if subtle.ConstantTimeCompare(derive(password, salt, t, m, uint8(p), len(want)), want) != 1 {
		return errWrong
	}
	return nil
}

const (
	freeTries   = 3 // wrong passwords before an address is slowed
	firstDelay  = 2 * time.Second
	maxDelay    = 10 * time.Minute
	maxSlowed   = 1024 // addresses remembered
	forgetAfter = 30 * time.Minute
)

// SlowError refuses a password without looking at it.
type SlowError struct {
	Addr netip.Addr
	Wait time.Duration
}

func (e *SlowError) Error() string {
	from := "here"
	if e.Addr.IsValid() {
		from = e.Addr.String()
	}
	return fmt.Sprintf("Too many wrong passwords from %s; try again in %s.", from, e.Wait.Truncate(time.Second)+time.Second)
}

// Gate verifies passwords one at a time and slows addresses that get them
// wrong. The zero netip.Addr stands for the serial line.
type Gate struct {
	now  func() time.Time
	slot chan struct{}

	mu   sync.Mutex
	from map[netip.Addr]*tries
}

type tries struct {
	wrong int
	last  time.Time
	until time.Time // refused before this
}

// NewGate makes a gate; now is a monotonic clock.
func NewGate(now func() time.Time) *Gate {
	return &Gate{now: now, slot: make(chan struct{}, 1), from: map[netip.Addr]*tries{}}
}

// Verify checks password against the PHC string hash. A *SlowError says that
// the address has to wait; it is decided before anything is computed.
func (g *Gate) Verify(ctx context.Context, from netip.Addr, hash, password string) error {
	from = network(from)
	if err := g.slowed(from); err != nil {
		return err
	}
	select {
	case g.slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g.slot }()
	// Those who waited in parallel with a wrong guess are slowed with it.
	if err := g.slowed(from); err != nil {
		return err
	}
	err := VerifyPassword(hash, password)
	g.note(from, err == nil)
	return err
}

// network is what an address is slowed as: an IPv6 host owns its whole /64.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.Addr()
	}
	return a
}

func (g *Gate) slowed(from netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.from[from]; t != nil {
		if wait := t.until.Sub(g.now()); wait > 0 {
			return &SlowError{Addr: from, Wait: wait}
		}
	}
	return nil
}

func (g *Gate) note(from netip.Addr, right bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if right {
		delete(g.from, from)
		return
	}
	now := g.now()
	t := g.from[from]
	if t == nil || now.Sub(t.last) > forgetAfter {
		g.makeRoom(now)
		t = &tries{}
		g.from[from] = t
	}
	t.wrong++
	t.last = now
	if n := t.wrong - freeTries; n >= 0 {
		t.until = now.Add(min(firstDelay<<min(n, 20), maxDelay))
	}
}

// makeRoom forgets what is old and, in a full table, the oldest.
func (g *Gate) makeRoom(now time.Time) {
	if len(g.from) < maxSlowed {
		return
	}
	var oldest netip.Addr
	var when time.Time
	for a, t := range g.from {
		if now.Sub(t.last) > forgetAfter {
			delete(g.from, a)
		} else if when.IsZero() || t.last.Before(when) {
			oldest, when = a, t.last
		}
	}
	if len(g.from) >= maxSlowed {
		delete(g.from, oldest)
	}
}

// sentence is an error that a person reads as it is.
type sentence string

func (s sentence) Error() string { return string(s) }

func say(format string, args ...any) error { return sentence(fmt.Sprintf(format, args...)) }
