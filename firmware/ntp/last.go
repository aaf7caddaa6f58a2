package ntp

import "time"

// written is when this code was: an image's own time may be 1970, where the
// builder pins the times of files.
var written = time.Unix(1767225600, 0) // 2026-01-01

// After returns what to set a clock to that shows now, when a time is known
// that is certainly over: the last one that was stored, or that of the build.
// It reports false when the clock needs no help. A stored time that cannot
// be, because it is damaged, is not taken.
func After(now, stored, build time.Time) (time.Time, bool) {
	const horizon = 50 * 365 * 24 * time.Hour
	if build.Before(written) {
		build = written
	}
	at := build
	if stored.After(build) && stored.Sub(build) < horizon {
		at = stored
	}
	return at, now.Before(at)
}

// Restore sets a clock that is behind to the last known time. It reports
// whether it did.
func Restore(now, stored, build time.Time, set func(time.Time) error) (bool, error) {
	at, behind := After(now, stored, build)
	if !behind {
		return false, nil
	}
	return true, set(at)
}
