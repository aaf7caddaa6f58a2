package store

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"slices"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// salvaged is what a new database starts with.
type salvaged struct {
	confirmed record // N 0: none
	entries   []entry
}

type entry struct {
	bucket     string
	key, value []byte
}

// salvage collects the intact entries of a damaged file.
func salvage(f *os.File) salvaged {
	var out salvaged
	fi, err := f.Stat()
	if err != nil {
		return out
	}
	have := map[string]int{} // where in out.entries
	p := &pages{r: f, size: fi.Size()}
	p.entry = func(bucket string, k, v []byte) {
		if bucket == bucketPointers {
			return
		}
		id := bucket + "\x00" + string(k)
		i, known := have[id]
		switch {
		case !known:
			have[id] = len(out.entries)
			out.entries = append(out.entries, entry{bucket, bytes.Clone(k), bytes.Clone(v)})
		case bucket == bucketRevisions && pending(out.entries[i].value) && !pending(v):
			out.entries[i].value = bytes.Clone(v) // it was confirmed, or given up, later
		}
	}
	_ = p.check()
	// The tree may have lost pages: look for revisions and kept values in all.
	// What the tree had is newer than what turns up here, and wins. Of two old
	// pages' versions of a revision the one that no longer waits is the newer.
	p.scan(bucketRevisions, Kept)
	var revs []entry
	for _, e := range out.entries {
		if e.bucket == bucketRevisions {
			revs = append(revs, e)
		}
	}
	out.confirmed = lastConfirmed(revs)
	return out
}

// pending tells whether a revision still waits for its confirm.
func pending(value []byte) bool {
	var r record
	return json.Unmarshal(value, &r) == nil && r.State == StatePending
}

// lastConfirmed is the newest confirmed record with settings that can be used.
func lastConfirmed(revs []entry) (best record) {
	for _, e := range revs {
		var r record
		if json.Unmarshal(e.value, &r) != nil || r.N != revOf(e.key) || r.State != StateConfirmed || r.N < best.N {
			continue
		}
		if usable(r.Settings) != nil {
			best = r
		}
	}
	return best
}

// usable parses settings and validates them; nil when they can't be used.
func usable(doc []byte) *settings.Settings {
	set, problems := settings.Parse(doc)
	if problems != nil || len(set.Validate()) > 0 {
		return nil
	}
	return set
}

// choose decides on the settings to start with.
func choose(rec *Recovery, keep *salvaged, path string, f io.ReaderAt) {
	body, raw, err := readCopy(copyPath(path))
	if err == nil {
		for k, v := range body.Kept {
			if !slices.ContainsFunc(keep.entries, func(e entry) bool { return e.bucket == Kept && string(e.key) == k }) {
				keep.entries = append(keep.entries, entry{Kept, []byte(k), v})
			}
		}
	}
	switch {
	case err == nil && body.N != 0 && body.N >= keep.confirmed.N && usable(body.Settings) != nil:
		body.State = StateConfirmed
		keep.confirmed, rec.From = record{body.Rev, body.Settings}, FromCopy
	case keep.confirmed.N != 0:
		rec.From = FromDatabase
	default:
		best := credentialsIn(raw)
		if c := credentialsInFile(f); best.older(c) {
			best = c
		}
		if !best.found {
			return
		}
		keep.confirmed, rec.From = defaultsFor(best.admin, keep.entries), FromDefaults
	}
}

// defaultsFor is a revision of the defaults with these credentials.
func defaultsFor(admin settings.Admin, entries []entry) record {
	set := settings.Default()
	set.System.Admin = admin
	n := 1
	for _, e := range entries {
		if e.bucket == bucketRevisions {
			n = max(n, revOf(e.key)+1)
		}
	}
	return record{Rev{N: n, State: StateConfirmed, Message: "defaults with the admin's credentials, after a damage"}, set.Compact()}
}
