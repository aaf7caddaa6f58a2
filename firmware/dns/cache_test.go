package dns

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestCacheIsLRU compares it with a plain list, through changes of its size.
func TestCacheIsLRU(t *testing.T) {
	var c cache
	owner := &pool{}
	c.clear(owner)
	var list []int // keys, the latest first
	size := 0
	resize := func(n int) {
		c.resize(n)
		size = n
		list = list[:min(len(list), size)]
	}
	resize(50)
	rng := rand.New(rand.NewPCG(1, 2))
	for step := range 50000 {
		k := rng.IntN(120)
		key := fmt.Appendf(nil, "name %d", k)
		at := slices.Index(list, k)
		switch op := rng.IntN(500); {
		case op == 0:
			resize(1 + rng.IntN(100))
		case op < 200:
			c.put(owner, key, &answer{msg: []byte{byte(k)}, ttl: 1}, 0)
			if at >= 0 {
				list = slices.Delete(list, at, at+1)
			}
			list = slices.Insert(list, 0, k)
			list = list[:min(len(list), size)]
		default:
			a, _ := c.get(key, 0)
			if (a != nil) != (at >= 0) || a != nil && a.msg[0] != byte(k) {
				t.Fatalf("step %d: got %v for %q, which is in place %d of the list", step, a, key, at)
			}
			if at >= 0 {
				list = slices.Insert(slices.Delete(list, at, at+1), 0, k)
			}
		}
		if _, _, n := c.stats(); n != len(list) {
			t.Fatalf("step %d: %d entries, want %d", step, n, len(list))
		}
	}
}

// TestCacheSpreads: two names share a bucket with a chance of at most two in the
// number of buckets, which is what the hash promises, whatever the names are.
func TestCacheSpreads(t *testing.T) {
	const names, salts = 1000, 50
	shared, buckets := 0, 0 // pairs of names
	for range salts {
		var c cache
		c.resize(names)
		buckets = len(c.buckets)
		in := make([]int, buckets)
		for i := range names {
			b := c.bucket(fmt.Appendf(nil, "\x0ahost-%05d\x07example\x00\x00\x01\x00", i))
			shared += in[b]
			in[b]++
		}
	}
	if mean, bound := shared/salts, names*(names-1)/buckets; mean > bound {
		t.Errorf("%d pairs of %d names share a bucket, want at most %d", mean, names, bound)
	}
}
