package boot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/supervise"
)

// Watchdog is a hardware watchdog: it resets the machine Timeout after the last Ping.
type Watchdog interface {
	Name() string
	Timeout() (time.Duration, error)
	Ping() error
	Close() error // disarms it where the driver allows that
}

// Health says how the health of a service is judged.
type Health struct {
	Service string // its name
	Socket  string // where it answers {"id":1,"method":"health"}
	Every   time.Duration
	Answer  time.Duration // how long an answer may take
	Grace   time.Duration // how long the first answer may take
	// KillAfter without an answer the service is killed, once; after StopAfter
	// the watchdog is no longer fed. Without a watchdog it is killed again instead.
	KillAfter, StopAfter time.Duration
}

// DefaultHealth returns how netd is judged.
func DefaultHealth() Health {
	return Health{
		Service: "netd", Socket: apiSock, Every: 10 * time.Second, Answer: 5 * time.Second,
		Grace: 120 * time.Second, KillAfter: 60 * time.Second, StopAfter: 120 * time.Second,
	}
}

// judge decides what follows from the answers of a service. All times are on
// one monotonic clock.
type judge struct {
	h      Health
	hasDog bool
	last   time.Duration // of the last good answer
	killed bool
}

// newJudge begins the grace period at now.
func newJudge(h Health, hasDog bool, now time.Duration) *judge {
	// As if it had answered at a moment such that KillAfter ends with Grace.
	return &judge{h: h, hasDog: hasDog, last: now + h.Grace - h.KillAfter}
}

// step takes the result of one check.
func (j *judge) step(now time.Duration, ok bool) (feed, kill bool) {
	if ok {
		j.last, j.killed = now, false
		return true, false
	}
	silent := now - j.last
	if silent > j.h.StopAfter {
		if j.hasDog {
			return false, false
		}
		// Nobody will reset us: go on trying.
		j.last, j.killed = now, false
		return true, false
	}
	if silent > j.h.KillAfter && !j.killed {
		j.killed = true
		return true, true
	}
	return true, false
}

// checkHealth asks the service once.
func checkHealth(ctx context.Context, socket string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(t)
	}
	const id = 1
	if _, err := fmt.Fprintf(c, "{\"id\":%d,\"method\":\"health\"}\n", id); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadBytes('\n')
	if err != nil {
		return err
	}
	var answer struct {
		ID    int             `json:"id"`
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("bad answer: %w", err)
	}
	if answer.ID != id {
		return fmt.Errorf("answer to request %d", answer.ID)
	}
	if len(answer.Error) > 0 && !bytes.Equal(answer.Error, []byte("null")) {
		return fmt.Errorf("not healthy: %s", answer.Error)
	}
	return nil
}

// watchHealth checks the service until ctx is done.
func (m *machine) watchHealth(ctx context.Context) {
	h := m.o.Health
	if h.Service == "" {
		return
	}
	j := newJudge(h, m.watchdog != nil, supervise.Uptime())
	tick := time.NewTicker(h.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.watchdog.set(true) // the shutdown has its own limit
			return
		case <-tick.C:
		}
		cctx, cancel := context.WithTimeout(ctx, h.Answer)
		err := checkHealth(cctx, h.Socket)
		cancel()
		if ctx.Err() != nil {
			continue
		}
		feed, kill := j.step(supervise.Uptime(), err == nil)
		if kill {
			m.log.Error("no health answer; killed", "service", h.Service, "for", h.KillAfter, "last", err)
			if err := m.sup.Signal(h.Service, unix.SIGKILL); err != nil {
				m.log.Error("not killed", "service", h.Service, "err", err)
			}
		}
		if !m.watchdog.set(feed) {
			continue
		}
		if feed { // it came back in time
			_ = os.Remove(m.hangFile())
			continue
		}
		m.quiet.Store(false)
		m.problem(fmt.Sprintf("Watchdog: %s has not answered for %s; the watchdog will restart the router.", h.Service, h.StopAfter))
		m.noteHang(h)
	}
}

// hangFile tells the next boot why the watchdog restarted the router.
func (m *machine) hangFile() string { return filepath.Join(m.o.DataDir, "last-hang") }

// noteHang writes the hangFile. A disk that hangs too does no harm: the
// watchdog is not fed any more.
func (m *machine) noteHang(h Health) {
	if !m.data.mounted {
		return
	}
	text := fmt.Sprintf("init: %s had not answered for %s at %s; its last lines:", h.Service, h.StopAfter, time.Now().UTC().Format(time.DateTime))
	if ring := m.sup.Log(h.Service); ring != nil {
		for _, l := range ring.Tail(hangLines) {
			text += "\n" + l.Text
		}
	}
	if err := replaceFile(m.hangFile(), []byte(text)); err != nil {
		m.log.Error("why the watchdog restarts the router is not kept", "err", err)
	}
}

// hangLines are how many of a hanging service's last lines the next boot shows.
const hangLines = 20

// feeder pings a watchdog as long as it may. A nil feeder is no watchdog.
type feeder struct {
	dog   Watchdog
	label string
	on    atomic.Bool
	stop  chan struct{}
}

// set says whether to feed, and returns whether that is news.
func (f *feeder) set(on bool) bool { return f != nil && f.on.Swap(on) != on }

func (f *feeder) name() string {
	if f == nil {
		return ""
	}
	return f.label
}

// disarm ends the feeding and stops the watchdog, if its driver lets it.
func (f *feeder) disarm() error {
	if f == nil {
		return nil
	}
	close(f.stop)
	return f.dog.Close()
}

// openWatchdog opens the watchdog, which arms it, and begins to feed it.
func (m *machine) openWatchdog() error {
	if m.o.OpenWatchdog == nil || !m.hw.Watchdog {
		return nil
	}
	dog, err := m.o.OpenWatchdog()
	if err != nil {
		return fmt.Errorf("not opened: %w", err)
	}
	timeout, err := dog.Timeout()
	if err != nil || timeout <= 0 {
		timeout = 15 * time.Second
		err = errors.Join(err, dog.Ping())
	}
	f := &feeder{dog: dog, label: dog.Name(), stop: make(chan struct{})}
	f.on.Store(true)
	m.watchdog = f
	m.spawn("watchdog", func() { f.run(min(timeout/3, 10*time.Second), m.log.Error) })
	return err
}

func (f *feeder) run(every time.Duration, complain func(string, ...any)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		if !f.on.Load() {
			continue
		}
		if err := f.dog.Ping(); err != nil {
			complain("watchdog not fed", "err", err)
		}
	}
}
