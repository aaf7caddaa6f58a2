package dns

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
)

const (
	maxCachedMsg  = 4096 // longer answers are rare and not worth their memory
	bytesPerEntry = 512  // the cache's memory is bounded by this times its size
	entryOverhead = 160  // what an entry costs beside its bytes, roughly
	none          = int32(-1)
)

// cache keeps the most recently used answers, bounded in number and in bytes.
// Links are indices, and an entry's memory is used again, so that neither a hit
// nor a new entry in a full cache allocates.
type cache struct {
	mu           sync.Mutex
	owner        *pool               // whose answers these are
	salt         [nameMax + 3]uint32 // random: nobody can tell which names share a bucket
	buckets      []int32             // first entries of the chains; a power of two
	shift        int                 // leaves the bits that number a bucket
	ents         []entry
	n            int   // entries in use
	free         int32 // chain of unused ones, through next
	head, tail   int32 // most and least recently used
	max          int
	bytes        int
	hits, misses uint64
}

type entry struct {
	key        []byte
	ans        *answer
	stored     uint32 // seconds
	prev, next int32  // used more and less recently
	bucket     uint32
	chain      int32 // next in the bucket
}

func (e *entry) size() int {
	return len(e.key) + len(e.ans.msg) + len(e.ans.ttls) + entryOverhead
}

// get returns the answer for key and its age in seconds, nil when there is no
// fresh one.
func (c *cache) get(key []byte, now uint32) (*answer, uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.find(key, c.bucket(key))
	if i == none {
		c.misses++
		return nil, 0
	}
	e := &c.ents[i]
	age := now - e.stored
	if age >= e.ans.ttl {
		c.remove(i)
		c.misses++
		return nil, 0
	}
	if c.head != i {
		c.unlink(i)
		c.pushFront(i)
	}
	c.hits++
	return e.ans, age
}

// put keeps a, unless the upstreams it came from are no longer in use.
func (c *cache) put(owner *pool, key []byte, a *answer, now uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max == 0 || owner != c.owner || a.ttl == 0 || len(a.msg) > maxCachedMsg {
		return
	}
	bucket := c.bucket(key)
	if i := c.find(key, bucket); i != none {
		c.remove(i)
	}
	i := c.free
	if i != none {
		c.free = c.ents[i].next
	} else {
		i = int32(len(c.ents))
		c.ents = append(c.ents, entry{})
	}
	e := &c.ents[i]
	*e = entry{key: append(e.key[:0], key...), ans: a, stored: now, bucket: bucket, chain: c.buckets[bucket]}
	c.buckets[bucket] = i
	c.n++
	c.bytes += e.size()
	c.pushFront(i)
	c.shrink()
}

// bucket hashes with a random factor for each place of key, and takes the upper
// bits of the sum: that is universal hashing, for a few instructions a byte.
func (c *cache) bucket(key []byte) uint32 {
	h := uint32(0)
	for i, b := range key {
		h += uint32(b) * c.salt[i]
	}
	return h >> c.shift
}

// find returns the entry for key, none when there is none.
func (c *cache) find(key []byte, bucket uint32) int32 {
	for i := c.buckets[bucket]; i != none; i = c.ents[i].chain {
		if bytes.Equal(c.ents[i].key, key) {
			return i
		}
	}
	return none
}

// shrink evicts the least recently used until both bounds hold.
func (c *cache) shrink() {
	for c.n > c.max || c.bytes > c.max*bytesPerEntry && c.n > 1 {
		c.remove(c.tail)
	}
}

// resize sets the number of entries as Config.CacheSize means it.
func (c *cache) resize(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 {
		n = DefaultCacheSize
	}
	c.max = min(max(n, 0), maxCacheSize)
	if len(c.buckets) == 0 {
		c.reset()
	}
	c.shrink()
	c.rehash()
}

// rehash makes the buckets as many as the entries may become.
func (c *cache) rehash() {
	n := 1
	for c.shift = 32; n < c.max; c.shift-- {
		n *= 2
	}
	if n == len(c.buckets) {
		return
	}
	c.buckets = slices.Repeat([]int32{none}, n)
	for i := c.head; i != none; i = c.ents[i].next {
		e := &c.ents[i]
		e.bucket = c.bucket(e.key)
		e.chain, c.buckets[e.bucket] = c.buckets[e.bucket], i
	}
}

// clear forgets everything; owner's answers are welcome from now on.
func (c *cache) clear(owner *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner = owner
	c.reset()
}

// adopt keeps everything for a new owner, who has the same upstreams.
func (c *cache) adopt(owner *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner = owner
}

func (c *cache) stats() (hits, misses uint64, entries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits, c.misses, c.n
}

func (c *cache) reset() {
	for i := range c.salt {
		c.salt[i] = rand.Uint32()
	}
	c.buckets, c.ents, c.n, c.bytes = nil, nil, 0, 0
	c.free, c.head, c.tail = none, none, none
	c.rehash()
}

func (c *cache) remove(i int32) {
	e := &c.ents[i]
	c.bytes -= e.size()
	c.n--
	at := &c.buckets[e.bucket]
	for *at != i {
		at = &c.ents[*at].chain
	}
	*at = e.chain
	c.unlink(i)
	*e = entry{key: e.key[:0], next: c.free}
	c.free = i
}

func (c *cache) unlink(i int32) {
	e := &c.ents[i]
	if e.prev != none {
		c.ents[e.prev].next = e.next
	} else {
		c.head = e.next
	}
	if e.next != none {
		c.ents[e.next].prev = e.prev
	} else {
		c.tail = e.prev
	}
}

func (c *cache) pushFront(i int32) {
	e := &c.ents[i]
	e.prev, e.next = none, c.head
	if c.head != none {
		c.ents[c.head].prev = i
	} else {
		c.tail = i
	}
	c.head = i
}
