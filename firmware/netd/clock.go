package netd

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/ntp"
)

// clock sets the time from the network.
type clock struct {
	d *daemon
	// options are what the client uses of the system.
	options ntp.Options

	mu        sync.Mutex
	client    *ntp.Client
	servers   []string
	upstreams []netip.Addr
	online    time.Time // since when the WAN is up, zero when it is not
}

// set gives the client its servers, and wakes it when it may reach them now:
// the WAN has come up, or others resolve their names.
func (c *clock) set(ctx context.Context, servers []string, upstreams []netip.Addr, online bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		c.start(ctx, servers)
	}
	if c.client == nil {
		return
	}
	c.client.SetServers(servers)
	if online && (c.online.IsZero() || !slices.Equal(upstreams, c.upstreams)) {
		c.client.Kick()
	}
	c.servers, c.upstreams = servers, slices.Clone(upstreams)
	switch {
	case !online:
		c.online = time.Time{}
	case c.online.IsZero():
		c.online = time.Now()
	}
}

// clockPatience is how long the WAN has to be up, and all servers have to be
// silent, before people are told.
const clockPatience = 2 * time.Minute

// problem is what keeps the clock from being right, "" when all is well, when
// nobody wants it set, or when the WAN is the problem.
func (c *clock) problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil || len(c.servers) == 0 || c.online.IsZero() || time.Since(c.online) < clockPatience {
		return ""
	}
	st := c.client.Status()
	if st.Problem == "" || time.Since(st.Failing) < clockPatience {
		return ""
	}
	what := "The clock was not set since the boot and may be wrong: "
	if st.Synced {
		what = "The clock was last checked at " + st.At.UTC().Format(time.DateTime) + " UTC: "
	}
	return what + st.Problem + ". Fix: set system ntp servers NAME, or dns upstreams 9.9.9.9 where names do not resolve; commit"
}

func (c *clock) start(ctx context.Context, servers []string) {
	d := c.d
	o := c.options
	o.Servers, o.SaveLast, o.NotBefore, o.Log = servers, d.saveTime, d.built(), d.log.With("service", "ntp")
	o.OnSync = func() { d.learn(func(f *facts.Facts) { f.Synced = true }) }
	client, err := ntp.New(o)
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
