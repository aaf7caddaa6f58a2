package supervise

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxLine is the longest line a Ring keeps, in bytes; longer ones are split.
const MaxLine = 1024

// lineCost is what a line costs beside its text: the struct that holds it.
const lineCost = 48

// Line is one line of a log. Wall jumps when the clock is set (boards without a
// battery start in 1970); Uptime, the kernel's monotonic clock, never does.
type Line struct {
	Wall   time.Time     `json:"wall"`
	Uptime time.Duration `json:"uptime_ns"`
	Text   string        `json:"text"`
}

// Ring keeps the last lines of a log within a fixed number of bytes.
// It is safe for concurrent use.
type Ring struct {
	now    func() time.Time
	uptime func() time.Duration
	max    int

	mu      sync.Mutex
	lines   []Line
	size    int
	dropped int64
	echo    func(Line)
}

// NewRing returns a Ring of at most max bytes, bookkeeping included. now gives
// the wall clock and uptime the monotonic one; nil means the system's.
func NewRing(max int, now func() time.Time, uptime func() time.Duration) *Ring {
	if now == nil {
		now = time.Now
	}
	if uptime == nil {
		uptime = Uptime
	}
	return &Ring{now: now, uptime: uptime, max: max}
}

// Uptime returns CLOCK_MONOTONIC, the clock of the kernel's log lines.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Echo makes the ring pass every new line to f too (nil ends it).
func (r *Ring) Echo(f func(Line)) {
	r.mu.Lock()
	r.echo = f
	r.mu.Unlock()
}

// Add appends text, one entry for each of its lines, with the present time.
func (r *Ring) Add(text string) { r.AddAt(r.uptime(), text) }

// AddAt is Add for a line whose moment is known on the monotonic clock.
func (r *Ring) AddAt(uptime time.Duration, text string) {
	wall := r.now().Add(uptime - r.uptime())
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		for len(line) > MaxLine {
			r.add(Line{wall, uptime, strings.Clone(line[:MaxLine])})
			line = line[MaxLine:]
		}
		// Clone: the text may be a slice of a much larger buffer.
		r.add(Line{wall, uptime, strings.Clone(line)})
	}
}

func (r *Ring) add(l Line) {
	r.mu.Lock()
	r.lines = append(r.lines, l)
	r.size += len(l.Text) + lineCost
	cut := 0
	for r.size > r.max && cut < len(r.lines) {
		r.size -= len(r.lines[cut].Text) + lineCost
		cut++
	}
	if cut > 0 {
		// Shift in place: a re-slice would let the array grow for ever.
		n := copy(r.lines, r.lines[cut:])
		clear(r.lines[n:])
		r.lines = r.lines[:n]
		r.dropped += int64(cut)
	}
	echo := r.echo
	r.mu.Unlock()
	if echo != nil {
		echo(l)
	}
}

// Tail returns a copy of the last n lines, oldest first; n <= 0 means all.
func (r *Ring) Tail(n int) []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n <= 0 || n > len(r.lines) {
		n = len(r.lines)
	}
	return append([]Line(nil), r.lines[len(r.lines)-n:]...)
}

// Dropped returns how many lines had to make room.
func (r *Ring) Dropped() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// Write makes a Ring the target of a slog handler: each call holds whole lines.
func (r *Ring) Write(p []byte) (int, error) {
	r.Add(string(p))
	return len(p), nil
}

// ReadFrom adds what it reads from src, line by line, until the end of src. A
// last line without a newline counts too.
func (r *Ring) ReadFrom(src io.Reader) (int64, error) {
	var n int64
	br := bufio.NewReaderSize(src, MaxLine)
	for {
		b, err := br.ReadSlice('\n')
		n += int64(len(b))
		if len(b) > 0 {
			r.Add(string(b))
		}
		switch {
		case err == nil || errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return n, nil
		default:
			return n, err
		}
	}
}
