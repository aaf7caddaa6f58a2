package dns

import "errors"

const (
	maxTTL         = 86400 // seconds an answer is kept at most
	maxNegativeTTL = 10800 // RFC 2308 section 5
	failureTTL     = 1     // RFC 9520 section 3.2: failures too are cached, briefly
)

var (
	errNotOurs   = errors.New("answer to another question")
	errMalformed = errors.New("malformed answer")
)

// answer is what an upstream said, ready to be sent to anybody who asked the
// same. It never changes.
type answer struct {
	msg  []byte // header, question, records; no additional section
	qend int    // end of the question
	ttls []byte // offsets in msg of the records' TTLs, 16 bits each
	ttl  uint32 // seconds it may be cached; 0: not at all
}

// failure is the answer when no upstream had one; question is a header and a
// question.
func failure(question []byte) *answer {
	msg := make([]byte, len(question))
	copy(msg[headerLen:], question[headerLen:])
	msg[3], msg[5] = rcodeServFail, 1
	return &answer{msg: msg, qend: len(msg), ttl: failureTTL}
}

func (a *answer) rcode() int { return int(a.msg[3] & 15) }

// render writes the answer, age seconds old, for one client to dst, which is
// empty. The client's own question goes in, so the name keeps its spelling.
func (a *answer) render(dst []byte, to *asker, age uint32) []byte {
	opt := 0
	if to.edns {
		opt = optLen
	}
	flags := byte(flagQR)
	if len(a.msg)+opt > to.limit {
		flags |= flagTC
		dst = append(dst, a.msg[:a.qend]...)
		clear(dst[6:headerLen])
	} else {
		dst = append(dst, a.msg...)
		for i := 0; i < len(a.ttls); i += 2 {
			t := dst[be16(a.ttls[i:]):]
			put32(t, be32(t)-age)
		}
	}
	copy(dst[headerLen:a.qend], to.head[headerLen:])
	dst[0], dst[1] = to.head[0], to.head[1]
	dst[2] = flags | to.head[2]&flagRD
	dst[3] = flagRA | to.head[3]&flagCD | a.msg[3]&15
	if to.edns {
		dst = to.appendOPT(dst)
	}
	return dst
}

// sameQuestion tells whether msg answers the question of asked, and where its
// question ends. Case does not matter: some servers normalise it.
func sameQuestion(msg, asked []byte) bool {
	if len(msg) < len(asked) || be16(msg[4:]) != 1 {
		return false
	}
	n := len(asked) - 4
	for i := headerLen; i < n; i++ {
		if lower(msg[i]) != lower(asked[i]) {
			return false
		}
	}
	return string(msg[n:len(asked)]) == string(asked[n:])
}

// checkHeader checks that msg is a response to asked (a header and a question).
// errNotOurs means that the right answer may still come.
func checkHeader(msg, asked []byte) error {
	if len(msg) < headerLen || msg[0] != asked[0] || msg[1] != asked[1] ||
		msg[2]&flagQR == 0 || msg[2]>>3&15 != 0 {
		return errNotOurs
	}
	if rcode := msg[3] & 15; be16(msg[4:]) == 0 && (rcode == rcodeFormErr || rcode == rcodeNotImp) {
		return nil // servers that cannot read EDNS send the bare header
	}
	if !sameQuestion(msg, asked) {
		return errNotOurs
	}
	return nil
}

// parser walks the records of an answer.
type parser struct {
	msg      []byte
	off      int
	ttls     [16]uint16 // offsets of the first TTLs, and
	more     []byte     // of the others, as in answer: seldom are there any
	n        int        // how many in all
	minTTL   uint32
	negative uint32 // what the SOA allows, when there is one
	soa      bool
	found    bool // a record of the type asked for
	extended bool // an rcode above 15
}

// record reads one record; section is 0 for answers, 1 authority, 2 additional.
func (p *parser) record(section int, qtype uint16) bool {
	off := skipName(p.msg, p.off)
	if off == 0 || off+10 > len(p.msg) {
		return false
	}
	rrtype, ttl, rdata := be16(p.msg[off:]), be32(p.msg[off+4:]), off+10
	end := rdata + int(be16(p.msg[off+8:]))
	if end > len(p.msg) {
		return false
	}
	p.off = end
	if section == 2 {
		p.extended = p.extended || rrtype == typeOPT && ttl>>24 != 0
		return true
	}
	if ttl > 1<<31-1 {
		ttl = 0 // RFC 2181 section 8
	}
	if section == 1 && rrtype == typeSOA {
		minimum, ok := soaMinimum(p.msg[:end], rdata)
		if !ok {
			return false
		}
		ttl = min(ttl, minimum, maxNegativeTTL)
		p.soa, p.negative = true, ttl
	}
	ttl = min(ttl, maxTTL)
	put32(p.msg[off+4:], ttl)
	if p.n < len(p.ttls) {
		p.ttls[p.n] = uint16(off + 4)
	} else {
		p.more = append16(p.more, uint16(off+4))
	}
	p.n++
	p.minTTL = min(p.minTTL, ttl)
	p.found = p.found || section == 0 && rrtype == qtype
	return true
}

// soaMinimum reads the last field of an SOA that ends where msg does.
func soaMinimum(msg []byte, off int) (uint32, bool) {
	for range 2 { // MNAME, RNAME
		if off = skipName(msg, off); off == 0 {
			return 0, false
		}
	}
	if len(msg)-off != 20 {
		return 0, false
	}
	return be32(msg[off+16:]), true
}

// parseAnswer makes an answer of an upstream's message to asked. It keeps none
// of msg, but writes to it. The additional section is dropped: nobody needs it
// from a forwarder, and OPT is hop by hop (RFC 6891 section 6.1.1).
func parseAnswer(msg, asked []byte, do bool) (*answer, error) {
	if err := checkHeader(msg, asked); err != nil {
		return nil, err
	}
	if be16(msg[4:]) == 0 {
		a := failure(asked)
		a.msg[3], a.ttl = msg[3]&15, 0
		return a, nil
	}
	p := parser{msg: msg, off: len(asked), minTTL: maxTTL}
	qtype := be16(asked[len(asked)-4:])
	ends, counts := [3]int{}, [3]int{}
	for section := range 3 {
		n := be16(msg[6+2*section:])
		for range n {
			if !p.record(section, qtype) {
				return nil, errMalformed
			}
		}
		ends[section], counts[section] = p.off, p.n
	}
	if p.extended {
		return nil, errMalformed
	}
	a := &answer{qend: len(asked)}
	end, keep := ends[1], counts[1]
	if p.found && !p.soa && !do {
		end, keep = ends[0], counts[0] // NS records of the zone: of no use to a stub
		put16(msg[8:], 0)
	}
	put16(msg[10:], 0)
	whole := append(make([]byte, 0, end+2*keep), msg[:end]...)
	for _, at := range p.ttls[:min(keep, len(p.ttls))] {
		whole = append16(whole, at)
	}
	whole = append(whole, p.more[:max(2*(keep-len(p.ttls)), 0)]...)
	a.msg, a.ttls = whole[:end:end], whole[end:]
	a.ttl = p.cacheTTL(a)
	return a, nil
}

// cacheTTL decides how long an answer may be kept. Negative ones without an SOA
// are not (RFC 2308 section 5).
func (p *parser) cacheTTL(a *answer) uint32 {
	switch rcode := a.rcode(); {
	case a.msg[2]&flagTC != 0:
		return 0
	case rcode == rcodeServFail:
		return failureTTL
	case rcode != rcodeOK && rcode != rcodeNXDomain:
		return 0
	case rcode == rcodeOK && p.found:
		ttl := uint32(maxTTL)
		for i := 0; i < len(a.ttls); i += 2 {
			ttl = min(ttl, be32(a.msg[be16(a.ttls[i:]):]))
		}
		return ttl
	case p.soa:
		return p.minTTL
	}
	return 0
}
