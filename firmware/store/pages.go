package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
)

// bbolt maps its file and trusts it: a damaged page makes it panic or fault,
// partly in goroutines of its own, where nobody can recover. So every page is
// read and checked here before bbolt sees the file. The format is bbolt's
// internal/common: page, meta, leaf and branch elements in native byte order.
const (
	pageSize   = 4096
	headerSize = 16
	elemSize   = 16
	metaSize   = 64

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = 1<<64 - 1

	bucketElem = 0x01

	maxFile  = 16 << 20 // the database never grows beyond this
	maxDepth = 32
	maxErrs  = 8
)

var order = binary.NativeEndian

// pages reads a bbolt file without trusting it.
type pages struct {
	r    io.ReaderAt
	size int64
	hwm  uint64          // pages below this one are in use or free
	seen map[uint64]bool // pages that something refers to
	errs []error
	// entry gets each key and value of each bucket, with their checksum
	// verified and removed; they are valid during the call only.
	entry func(bucket string, key, value []byte)
}

func (p *pages) failf(format string, args ...any) {
	if len(p.errs) < maxErrs {
		p.errs = append(p.errs, fmt.Errorf(format, args...))
	}
}

// check reads the whole tree. It goes on after an error where it can, so that
// entry sees all that is intact.
func (p *pages) check() error {
	root, err := p.meta()
	if err != nil {
		return err
	}
	p.seen = map[uint64]bool{}
	p.tree(root, "", nil, nil, 0)
	return errors.Join(p.errs...)
}

// meta picks the newer valid one of the two meta pages, as bbolt does.
func (p *pages) meta() (root uint64, err error) {
	var best uint64
	found := false
	for i := range int64(2) {
		buf := make([]byte, headerSize+metaSize)
		if _, err := p.r.ReadAt(buf, i*pageSize); err != nil {
			continue
		}
		m := buf[headerSize:]
		sum := fnv.New64a()
		sum.Write(m[:56])
		if order.Uint32(m) != boltMagic || order.Uint32(m[4:]) != boltVersion || order.Uint32(m[8:]) != pageSize || order.Uint64(m[56:]) != sum.Sum64() {
			continue
		}
		if txid := order.Uint64(m[48:]); !found || txid > best {
			found, best = true, txid
			root, p.hwm = order.Uint64(m[16:]), order.Uint64(m[40:])
			err = p.freelist(order.Uint64(m[32:]))
		}
	}
	switch {
	case !found:
		return 0, errors.New("both meta pages are damaged")
	case err != nil:
		return 0, err
	case p.hwm > uint64(p.size/pageSize):
		return 0, fmt.Errorf("cut short: %d of %d pages", p.size/pageSize, p.hwm)
	}
	return root, nil
}

// freelist: a new database has an empty one, later ones have none (NoFreelistSync).
func (p *pages) freelist(id uint64) error {
	if id == noFreelist {
		return nil
	}
	buf, err := p.page(id)
	if err != nil || order.Uint16(buf[8:]) != freelistPage || order.Uint16(buf[10:]) != 0 {
		return errors.New("the freelist is damaged")
	}
	return nil
}

// page reads page id with its overflow pages.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= uint64(p.size/pageSize) {
		return nil, fmt.Errorf("page %d: out of bounds", id)
	}
	buf := make([]byte, pageSize)
	if _, err := p.r.ReadAt(buf, int64(id)*pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	over := uint64(order.Uint32(buf[12:]))
	switch {
	case order.Uint64(buf) != id:
		return nil, fmt.Errorf("page %d: says it is page %d", id, order.Uint64(buf))
	case over > maxFile/pageSize || id+over >= uint64(p.size/pageSize):
		return nil, fmt.Errorf("page %d: %d overflow pages are out of bounds", id, over)
	case over > 0:
		buf = make([]byte, (over+1)*pageSize)
		if _, err := p.r.ReadAt(buf, int64(id)*pageSize); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	return buf, nil
}

// tree walks a bucket's pages from id; keys must lie in [lo, hi), nil = open.
// bucket is "" for the root, which holds buckets only.
func (p *pages) tree(id uint64, bucket string, lo, hi []byte, depth int) {
	buf, err := p.page(id)
	if err != nil {
		p.failf("%w", err)
		return
	}
	for i := range uint64(len(buf) / pageSize) {
		if p.seen[id+i] || id+i >= p.hwm {
			p.failf("page %d: referred to twice, or free", id+i)
			return
		}
		p.seen[id+i] = true
	}
	switch {
	case depth > maxDepth:
		p.failf("page %d: too deep", id)
	case order.Uint16(buf[8:]) == leafPage:
		p.leaf(buf, bucket, lo, hi, depth)
	case order.Uint16(buf[8:]) == branchPage:
		p.branch(buf, id, bucket, lo, hi, depth)
	default:
		p.failf("page %d: neither branch nor leaf", id)
	}
}

func (p *pages) branch(buf []byte, id uint64, bucket string, lo, hi []byte, depth int) {
	type child struct {
		key []byte
		id  uint64
	}
	var children []child
	n := int(order.Uint16(buf[10:]))
	for i := range n {
		off := headerSize + i*elemSize
		if off+elemSize > len(buf) {
			p.failf("page %d: too many elements", id)
			return
		}
		key, ok := cut(buf[off:], order.Uint32(buf[off:]), order.Uint32(buf[off+4:]))
		if !ok {
			p.failf("page %d: element %d is out of bounds", id, i)
			return
		}
		children = append(children, child{key, order.Uint64(buf[off+8:])})
	}
	if n == 0 {
		p.failf("page %d: an empty branch", id)
	}
	for i, c := range children {
		last := hi
		if i+1 < n {
			last = children[i+1].key
		}
		if !between(c.key, lo, last) {
			p.failf("page %d: keys out of order", id)
		}
		p.tree(c.id, bucket, c.key, last, depth+1)
	}
}

// between: lo <= key < hi.
func between(key, lo, hi []byte) bool {
	return (lo == nil || bytes.Compare(key, lo) >= 0) && (hi == nil || bytes.Compare(key, hi) < 0)
}

// cut is length bytes at pos.
func cut(b []byte, pos, length uint32) ([]byte, bool) {
	if uint64(pos)+uint64(length) > uint64(len(b)) {
		return nil, false
	}
	return b[pos : pos+length], true
}

// leaf reads a leaf page, or a small bucket that lies inline in one.
func (p *pages) leaf(buf []byte, bucket string, lo, hi []byte, depth int) {
	var prev []byte
	for i := range int(order.Uint16(buf[10:])) {
		off := headerSize + i*elemSize
		if off+elemSize > len(buf) {
			p.failf("bucket %q: too many elements in a page", bucket)
			return
		}
		e := buf[off:]
		pos, klen, vlen := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		key, ok := cut(e, pos, klen)
		value, ok2 := cut(e, pos+klen, vlen)
		if !ok || !ok2 || pos+klen < pos {
			p.failf("bucket %q: element %d is out of bounds", bucket, i)
			continue
		}
		if !between(key, lo, hi) || (i > 0 && bytes.Compare(prev, key) >= 0) {
			p.failf("bucket %q: keys out of order", bucket)
		}
		prev = key
		isBucket := order.Uint32(e)&bucketElem != 0
		switch {
		case isBucket != (bucket == ""):
			p.failf("bucket %q: an element of the wrong kind", bucket)
		case isBucket:
			p.bucket(string(key), value, depth)
		default:
			data, err := unseal(bucket, key, value)
			if err != nil {
				p.failf("bucket %q: %w", bucket, err)
			} else if p.entry != nil {
				p.entry(bucket, key, data)
			}
		}
	}
}

// bucket follows a bucket's header: its root page, or 0 and the page inline.
func (p *pages) bucket(name string, v []byte, depth int) {
	const header = 16
	switch {
	case name == "" || len(v) < header:
		p.failf("bucket %q: its header is damaged", name)
	case order.Uint64(v) != 0:
		p.tree(order.Uint64(v), name, nil, nil, depth+1)
	case len(v) < header+headerSize || order.Uint16(v[header+8:]) != leafPage:
		p.failf("bucket %q: its inline page is damaged", name)
	default:
		p.leaf(v[header:], name, nil, nil, depth+1)
	}
}

// scan looks at every page by itself, referred to or not, for entries of the
// named buckets: what is left when the tree is gone. Old versions of an entry
// turn up too, in any order.
func (p *pages) scan(buckets ...string) {
	p.seen = map[uint64]bool{}
	p.hwm = 0 // follows no reference
	for id := uint64(2); id < uint64(p.size/pageSize); id++ {
		buf, err := p.page(id)
		if err != nil || order.Uint16(buf[8:]) != leafPage {
			continue
		}
		for _, b := range append(buckets, "") {
			p.leaf(buf, b, nil, nil, 0)
		}
	}
}

// seal puts a checksum of bucket, key and value before value: bbolt has none
// of its own for data.
func seal(bucket string, key, value []byte) []byte {
	b := append(make([]byte, sealSize, sealSize+len(value)), value...)
	sealed(bucket, key, b)
	return b
}

// sealSize is what seal puts before a value.
const sealSize = 4

// sealed is seal for a value that has room for the checksum before it.
func sealed(bucket string, key, b []byte) {
	binary.BigEndian.PutUint32(b, checksum(bucket, key, b[sealSize:]))
}

func unseal(bucket string, key, b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != checksum(bucket, key, b[4:]) {
		return nil, fmt.Errorf("the value of %.40q is damaged", key)
	}
	return b[4:], nil
}

func checksum(bucket string, key, value []byte) uint32 {
	c := crc32.ChecksumIEEE([]byte(bucket))
	c = crc32.Update(c, crc32.IEEETable, []byte{0})
	c = crc32.Update(c, crc32.IEEETable, key)
	c = crc32.Update(c, crc32.IEEETable, []byte{0})
	return crc32.Update(c, crc32.IEEETable, value)
}
