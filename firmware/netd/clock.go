package netd

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/ntp"
)

// clock sets the time from the network.
type clock struct {
	d      *daemon
	mu     sync.Mutex
	client *ntp.Client
	online bool
}

// set gives the client its servers, and wakes it when the WAN has come up.
func (c *clock) set(ctx context.Context, servers []string, online bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		c.start(ctx, servers)
	}
	if c.client == nil {
		return
	}
	c.client.SetServers(servers)
	if online && !c.online {
		c.client.Kick()
	}
	c.online = online
}

func (c *clock) start(ctx context.Context, servers []string) {
	d := c.d
	client, err := ntp.New(ntp.Options{
		Servers: servers, Set: ntp.SetClock, Slew: ntp.SlewClock, SaveLast: d.saveTime, NotBefore: d.built(),
		OnSync: func() { d.learn(func(f *facts.Facts) { f.Synced = true }) },
		Log:    d.log.With("service", "ntp"),
	})
	if err != nil {
		d.log.Error("ntp", "err", err)
		return
	}
	c.client = client
	go d.keep(ctx, "ntp", client.Run)
}

// built is when the image was made: a time that is certainly over.
func (d *daemon) built() time.Time {
	fi, err := os.Stat(filepath.Join(d.files.etc, boardFile))
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

// restoreClock sets a clock that runs behind the last known time: a board
// without a battery starts in 1970.
func (d *daemon) restoreClock() {
	var stored time.Time
	if b, err := d.state.Get(keyTime); err == nil && b != nil {
		if sec, err := strconv.ParseInt(string(b), 10, 64); err == nil {
			stored = time.Unix(sec, 0)
		}
	}
	set, err := ntp.Restore(time.Now(), stored, d.built(), ntp.SetClock)
	switch {
	case err != nil:
		d.log.Warn("the clock is behind", "err", err)
	case set:
		d.log.Info("the clock was behind and is at the last known time now")
	}
}

// saveTime keeps the time over a power cut.
func (d *daemon) saveTime(t time.Time) {
	if err := d.state.Put(keyTime, strconv.AppendInt(nil, t.Unix(), 10)); err != nil {
		d.log.Warn("the time is not kept over a power cut", "err", err)
	}
}
