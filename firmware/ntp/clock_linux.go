package ntp

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// adjOffsetSingleshot is ADJ_OFFSET_SINGLESHOT of adjtimex(2): adjtime(3).
const adjOffsetSingleshot = 0x8001

// SetClock sets the system's clock at once.
func SetClock(t time.Time) error {
	// Boards with 32 bits have 32 bit system calls.
	if t.Unix() < 0 || t.Unix() > math.MaxInt32 {
		return fmt.Errorf("set the clock to %s: outside what the system can count", t.UTC().Format(time.DateTime))
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set the clock to %s: %w", t.UTC().Format(time.DateTime), err)
	}
	return nil
}

// SlewClock lets the system's clock run up to 500 ppm faster or slower until
// the offset is made up.
func SlewClock(offset time.Duration) error {
	tx := unix.Timex{Modes: adjOffsetSingleshot}
	assign(&tx.Offset, offset.Microseconds())
	if _, err := unix.Adjtimex(&tx); err != nil {
		return fmt.Errorf("slew the clock by %s: %w", offset, err)
	}
	return nil
}

// assign is for fields whose size depends on the architecture.
func assign[T int32 | int64](to *T, v int64) { *to = T(v) }
