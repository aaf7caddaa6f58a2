package store

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// credentials are what turned up of the admin's credentials in damaged text,
// and how new they are. bbolt leaves old pages behind, in any order, and no
// page has a transaction id; but revision numbers only grow.
type credentials struct {
	found bool
	admin settings.Admin
	// givenUp: the revision says that it was never confirmed.
	givenUp bool
	n       int   // number of the revision, 0 when it can't be read
	live    bool  // the page belongs to the newest transaction that is intact
	at      int64 // offset in the file
}

// older tells whether d should be taken in place of c.
func (c credentials) older(d credentials) bool {
	switch {
	case c.found != d.found:
		return d.found
	case c.givenUp != d.givenUp:
		return c.givenUp
	case c.n != d.n:
		return c.n < d.n
	case c.live != d.live:
		return d.live
	}
	return c.at < d.at
}

// credentialsIn finds the newest credentials in what may be damaged settings.
func credentialsIn(text []byte) (best credentials) {
	eachCredentials(text, func(c credentials) {
		if best.older(c) {
			best = c
		}
	})
	return best
}

// eachCredentials visits each object named "admin" that is right in itself.
func eachCredentials(text []byte, visit func(credentials)) {
	mark := []byte(`"admin":`)
	for from := 0; ; {
		i := bytes.Index(text[from:], mark)
		if i < 0 {
			return
		}
		before := text[from : from+i]
		from += i + len(mark)
		var a settings.Admin
		rest := text[from:min(len(text), from+256<<10)]
		if json.NewDecoder(bytes.NewReader(rest)).Decode(&a) != nil || (a.Password == "" && len(a.Keys) == 0) {
			continue
		}
		set := settings.Default()
		set.System.Admin = a
		if len(set.Validate()) > 0 {
			continue
		}
		n, givenUp := revisionHead(before)
		visit(credentials{found: true, admin: a, n: n, givenUp: givenUp, at: int64(from)})
	}
}

// revisionHead reads the number and the state of a revision in the text that
// stands between the credentials before and its own.
func revisionHead(text []byte) (n int, givenUp bool) {
	if bytes.Count(text, []byte(`"settings":`)) > 1 {
		return 0, false // an earlier revision's head is there, too
	}
	if i := bytes.LastIndex(text, []byte(`{"n":`)); i >= 0 {
		text = text[i+len(`{"n":`):]
		digits, _, _ := bytes.Cut(text, []byte(","))
		n, _ = strconv.Atoi(string(digits))
	}
	for _, s := range []string{StatePending, StateFailed, StateRolledBack} {
		givenUp = givenUp || bytes.Contains(text, []byte(`"state":"`+s+`"`))
	}
	return n, givenUp
}

// credentialsInFile finds the newest credentials in a whole file, in
// overlapping pieces.
func credentialsInFile(f io.ReaderAt) (best credentials) {
	const piece, overlap = 512 << 10, 64 << 10
	p := &pages{r: f, size: maxFile}
	_ = p.check() // for the pages in use
	live := p.seen
	extents := p.revisions()
	buf := make([]byte, piece)
	for off := int64(0); off < maxFile; off += piece - overlap {
		n, err := f.ReadAt(buf, off)
		eachCredentials(buf[:n], func(c credentials) {
			c.at += off
			for _, r := range extents {
				if c.at < r.from || c.at >= r.to {
					continue
				}
				c.live = live[r.page]
				// Key and text differ when one is damaged. One that grew by it
				// would beat all others, so the lower counts.
				if c.n == 0 || r.n < c.n {
					c.n = r.n
				}
			}
			if best.older(c) {
				best = c
			}
		})
		if err != nil {
			break
		}
	}
	return best
}

// extent is where the value of a revision lies in the file.
type extent struct {
	n        int
	page     uint64
	from, to int64
}

// revisions are the extents of all revisions, referred to or not, on pages that
// can be read.
func (p *pages) revisions() (all []extent) {
	for id := uint64(2); id < uint64(p.size/pageSize); id++ {
		buf, err := p.page(id)
		if err != nil || order.Uint16(buf[8:]) != leafPage {
			continue
		}
		for i := range int(order.Uint16(buf[10:])) {
			off := headerSize + i*elemSize
			if off+elemSize > len(buf) {
				break
			}
			pos, klen, vlen := order.Uint32(buf[off+4:]), order.Uint32(buf[off+8:]), order.Uint32(buf[off+12:])
			key, ok := cut(buf[off:], pos, klen)
			if _, ok2 := cut(buf[off:], pos+klen, vlen); !ok || !ok2 || revOf(key) == 0 {
				continue
			}
			from := int64(id)*pageSize + int64(off) + int64(pos+klen)
			all = append(all, extent{revOf(key), id, from, from + int64(vlen)})
		}
	}
	return all
}
