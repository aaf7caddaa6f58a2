package dns

import "sync"

const (
	maxCachedMsg  = 4096 // longer answers are rare and not worth their memory
	bytesPerEntry = 512  // the cache's memory is bounded by this times its size
	entryOverhead = 160  // what an entry costs beside its bytes, roughly
	none          = int32(-1)
)

// cache keeps the most recently used answers, bounded in number and in bytes.
// Links are indices, so that a hit moves an entry without allocation.
type cache struct {
	mu           sync.Mutex
	owner        *pool // whose answers these are
	index        map[string]int32
	ents         []entry
	free         int32 // chain of unused ones, through next
	head, tail   int32 // most and least recently used
	max          int
	bytes        int
	hits, misses uint64
}

type entry struct {
	key        string
	ans        *answer
	stored     uint32 // seconds
	prev, next int32
}

func (e *entry) size() int {
	return len(e.key) + len(e.ans.msg) + 2*len(e.ans.ttls) + entryOverhead
}

// get returns the answer for key and its age in seconds, nil when there is no
// fresh one.
func (c *cache) get(key []byte, now uint32) (*answer, uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.index[string(key)]
	if !ok {
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
func (c *cache) put(owner *pool, key string, a *answer, now uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max == 0 || owner != c.owner || a.ttl == 0 || len(a.msg) > maxCachedMsg {
		return
	}
	if i, ok := c.index[key]; ok {
		c.remove(i)
	}
	i := c.free
	if i != none {
		c.free = c.ents[i].next
	} else {
		i = int32(len(c.ents))
		c.ents = append(c.ents, entry{})
	}
	c.ents[i] = entry{key: key, ans: a, stored: now}
	c.index[key] = i
	c.bytes += c.ents[i].size()
	c.pushFront(i)
	c.shrink()
}

// shrink evicts the least recently used until both bounds hold.
func (c *cache) shrink() {
	for len(c.index) > c.max || c.bytes > c.max*bytesPerEntry && len(c.index) > 1 {
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
	if c.index == nil {
		c.reset()
	}
	c.shrink()
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
	return c.hits, c.misses, len(c.index)
}

func (c *cache) reset() {
	c.index, c.ents, c.bytes = make(map[string]int32), nil, 0
	c.free, c.head, c.tail = none, none, none
}

func (c *cache) remove(i int32) {
	e := &c.ents[i]
	c.bytes -= e.size()
	delete(c.index, e.key)
	c.unlink(i)
	*e = entry{next: c.free}
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
