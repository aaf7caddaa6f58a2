package dns

// The DNS message format (RFC 1035 section 4), read and written by hand on
// bytes: this is the path of every query, and on the boards' CPUs an allocation
// costs more than the whole lookup.

const (
	headerLen = 12
	nameMax   = 255 // RFC 1035 section 2.3.4
	optLen    = 11
	ednsSize  = 1232 // what fits an IPv6 minimum MTU: no fragments (DNS flag day 2020)

	flagQR, flagAA, flagTC, flagRD = 0x80, 0x04, 0x02, 0x01 // header byte 2
	flagRA, flagCD                 = 0x80, 0x10             // header byte 3

	classIN = 1

	typeA, typeNS, typeCNAME, typeSOA, typePTR = 1, 2, 5, 6, 12
	typeHINFO, typeAAAA, typeOPT, typeANY      = 13, 28, 41, 255
)

// Response codes; drop means: no answer at all.
const (
	rcodeOK       = 0
	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNXDomain = 3
	rcodeNotImp   = 4
	rcodeRefused  = 5
	rcodeBadVers  = 16
	drop          = -1
)

func be16(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func put16(b []byte, v uint16) { b[0], b[1] = byte(v>>8), byte(v) }

func put32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
}

func append16(b []byte, v uint16) []byte { return append(b, byte(v>>8), byte(v)) }

func append32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func lower(c byte) byte {
	if c-'A' < 26 {
		c += 'a' - 'A'
	}
	return c
}

// asker is what an answer must be fitted to: the client's own header and
// question, whether it speaks EDNS, and how much it can take.
type asker struct {
	head     []byte // header and question, as sent
	edns, do bool
	limit    int
}

// recurse tells whether the client wants recursion (RD).
func (a *asker) recurse() bool { return a.head[2]&flagRD != 0 }

// query is a parsed question. It is used again for the next one.
type query struct {
	asker
	qtype   uint16
	nameLen int
	labels  int // without the root
	last    int // offset in the name of its last label
	buf     [nameMax + 3]byte
}

// key identifies the question in the cache: the name in lower case, the type,
// and the bits that change what upstreams answer.
func (q *query) key() []byte { return q.buf[:q.nameLen+3] }

// name is the name in lower case, in wire format.
func (q *query) name() []byte { return q.buf[:q.nameLen] }

// parse reads a query and returns the response code it deserves, rcodeOK
// when it can be answered. It keeps pkt.
func (q *query) parse(pkt []byte, udp bool) int {
	q.edns, q.do, q.limit = false, false, 0xffff
	if udp {
		q.limit = 512
	}
	if len(pkt) < headerLen || pkt[2]&flagQR != 0 {
		return drop // answering an answer would let two servers play ping-pong
	}
	q.head = pkt[:headerLen]
	if pkt[2]>>3&15 != 0 {
		return rcodeNotImp
	}
	if be16(pkt[4:]) != 1 || be32(pkt[6:]) != 0 {
		return rcodeFormErr
	}
	off := q.parseName(pkt)
	if off == 0 || off+4 > len(pkt) {
		return rcodeFormErr
	}
	q.qtype = be16(pkt[off:])
	class := be16(pkt[off+2:])
	off += 4
	q.head = pkt[:off]
	if rcode := q.parseAdditional(pkt, off, udp); rcode != rcodeOK {
		return rcode
	}
	switch {
	case class != classIN:
		return rcodeRefused
	case q.qtype == typeOPT || q.qtype == 0:
		return rcodeFormErr
	case q.qtype >= 249 && q.qtype < typeANY: // TKEY, TSIG, zone transfers, MAILB, MAILA
		return rcodeRefused
	}
	bits := pkt[3] & flagCD
	if q.do {
		bits |= 1
	}
	q.buf[q.nameLen] = byte(q.qtype >> 8)
	q.buf[q.nameLen+1] = byte(q.qtype)
	q.buf[q.nameLen+2] = bits
	return rcodeOK
}

// parseName copies the question's name in lower case and returns where it
// ends, 0 when it is malformed. Nothing precedes it that a compression pointer
// could mean, so those are malformed too.
func (q *query) parseName(pkt []byte) int {
	off := headerLen
	q.labels, q.last = 0, 0
	for {
		if off >= len(pkt) {
			return 0
		}
		n := int(pkt[off])
		at := off - headerLen
		if n == 0 {
			q.buf[at] = 0
			q.nameLen = at + 1
			return off + 1
		}
		if n > 63 || at+1+n >= nameMax || off+1+n > len(pkt) {
			return 0
		}
		q.labels++
		q.last = at
		q.buf[at] = byte(n)
		for i, c := range pkt[off+1 : off+1+n] {
			q.buf[at+1+i] = lower(c)
		}
		off += 1 + n
	}
}

// parseAdditional looks for the OPT record (RFC 6891); others are ignored.
func (q *query) parseAdditional(pkt []byte, off int, udp bool) int {
	for range be16(pkt[10:]) {
		start := off
		if off = skipName(pkt, off); off == 0 || off+10 > len(pkt) {
			return rcodeFormErr
		}
		next := off + 10 + int(be16(pkt[off+8:]))
		if next > len(pkt) {
			return rcodeFormErr
		}
		if be16(pkt[off:]) == typeOPT {
			if q.edns || pkt[start] != 0 {
				return rcodeFormErr
			}
			q.edns = true
			q.do = pkt[off+6]&0x80 != 0
			if udp {
				q.limit = min(max(int(be16(pkt[off+2:])), 512), ednsSize)
			}
			if pkt[off+5] != 0 {
				return rcodeBadVers
			}
		}
		off = next
	}
	return rcodeOK
}

// skipName returns the offset after the name at off, 0 when it is malformed.
// Pointers must lead to a prior name (RFC 1035 section 4.1.4), each further back
// than the one before, and the whole name must fit 255 bytes: so it ends
// whatever the bytes are.
func skipName(msg []byte, off int) int {
	end, total, floor, limit := 0, 0, off, len(msg)
	for {
		if off >= limit {
			return 0
		}
		n := int(msg[off])
		switch {
		case n == 0:
			if end == 0 {
				end = off + 1
			}
			return end
		case n <= 63:
			total += n + 1
			off += n + 1
			if total >= nameMax {
				return 0
			}
		case n >= 0xc0:
			if off+1 >= limit {
				return 0
			}
			to := (n&0x3f)<<8 | int(msg[off+1])
			if to < headerLen || to >= floor {
				return 0
			}
			if end == 0 {
				end = off + 2
			}
			off, floor, limit = to, to, floor
		default:
			return 0
		}
	}
}

// fail makes a response that says rcode and nothing else.
func (a *asker) fail(dst []byte, rcode int) []byte {
	dst = append(dst, a.head...)
	clear(dst[4:headerLen])
	if len(a.head) > headerLen {
		dst[5] = 1
	}
	dst[2] = flagQR | a.head[2]&(0x78|flagRD)
	dst[3] = flagRA | a.head[3]&flagCD | byte(rcode&15)
	if a.edns {
		dst = a.appendOPT(dst)
		dst[len(dst)-6] = byte(rcode >> 4)
	}
	return dst
}

// appendOPT adds the OPT record to a response that has no additional section.
func (a *asker) appendOPT(dst []byte) []byte {
	do := byte(0)
	if a.do {
		do = 0x80
	}
	dst[11] = 1
	return append(dst, 0, 0, typeOPT, ednsSize>>8, ednsSize&0xff, 0, 0, do, 0, 0, 0)
}

// finish ends a response that was made from scratch: OPT, and truncation when
// it is too long for the client.
func (a *asker) finish(dst []byte) []byte {
	opt := 0
	if a.edns {
		opt = optLen
	}
	if len(dst)+opt > a.limit {
		dst = dst[:len(a.head)]
		dst[2] |= flagTC
		clear(dst[6:headerLen])
	}
	if a.edns {
		dst = a.appendOPT(dst)
	}
	return dst
}
