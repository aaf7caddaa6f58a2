package netd

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/dhcp4c"
	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/reconcile"
)

// wanClient runs the WAN's DHCP client while the plan wants one.
type wanClient struct {
	d      *daemon
	mu     sync.Mutex
	have   plan.DHCPClient
	client *dhcp4c.Client
	stop   context.CancelFunc
	done   chan struct{}
}

// set starts, restarts or ends the client; link is the WAN port as it was seen
// last. A port that does not exist yet is tried again with the next observation.
func (w *wanClient) set(ctx context.Context, want *plan.DHCPClient, link facts.Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client != nil && (want == nil || *want != w.have) {
		w.stop()
		<-w.done
		w.client = nil
		if want == nil {
			w.d.wanLease(nil)
		} else if f := w.d.known(); f.WAN != nil {
			w.d.outlive(ctx, f.WAN)
		}
	}
	if want == nil || link.Index == 0 {
		return
	}
	if w.client == nil {
		w.start(ctx, *want, link)
	}
	if w.client != nil {
		w.client.Carrier(link.Carrier)
	}
}

func (w *wanClient) start(ctx context.Context, want plan.DHCPClient, link facts.Link) {
	mac, err := net.ParseMAC(link.MAC)
	if err != nil {
		w.d.log.Error("dhcp client", "interface", want.Device, "err", err)
		return
	}
	c, err := dhcp4c.New(dhcp4c.Options{
		Interface: want.Device, HWAddr: mac, Hostname: want.Hostname, Previous: w.d.previousLease(), InUse: w.d.known().WAN != nil,
		Emit: w.d.wanLease, Log: w.d.log.With("service", "dhcp client"),
	})
	if err != nil {
		w.d.log.Error("dhcp client", "err", err)
		return
	}
	ctx, w.stop = context.WithCancel(ctx)
	w.client, w.have, w.done = c, want, make(chan struct{})
	go func() {
		defer close(w.done)
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			w.d.log.Error("dhcp client ended", "err", err)
		}
	}()
}

// problem is what the client has to complain of, "" when all is well.
func (w *wanClient) problem() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client == nil {
		return ""
	}
	return w.client.Status().Problem
}

// wanLease takes what the client emits; nil when the address is lost.
func (d *daemon) wanLease(l *dhcp4c.Lease) {
	var w *facts.WANLease
	if l != nil {
		w = &facts.WANLease{
			Address: l.Addr, Gateway: l.Router, DNS: l.DNS, Domain: l.Domain, MTU: l.MTU, Server: l.Server,
			Acquired: l.Acquired, Expires: l.Acquired.Add(l.Expiry),
		}
		for _, r := range l.Routes {
			w.Routes = append(w.Routes, facts.Route{Dst: r.Dst, Via: r.Via})
		}
	}
	d.learn(func(f *facts.Facts) {
		f.WAN = w
		d.leased = d.leased || w != nil // under d.mu, as the facts are
	})
	if w == nil {
		return // the address is asked for again, also after a reboot
	}
	if err := d.keepLease(w); err != nil {
		d.log.Warn("the WAN lease is not kept over a restart", "err", err)
	}
}

// keepLease keeps a lease for the next netd, in RAM, and what a reboot needs of
// it on flash, which is written only when that changes.
func (d *daemon) keepLease(w *facts.WANLease) error {
	b, err := json.Marshal(leaseInRAM{w, uptime() + time.Until(w.Expires)})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(d.files.run, leaseFile), b, 0o600); err != nil {
		return err
	}
	if p := d.previousLease(); p != nil && p.Addr == w.Address && p.Server == w.Server {
		return nil
	}
	b, err = json.Marshal(rebootLease{w.Address, w.Server})
	if err != nil {
		return err
	}
	return d.state.Put(keyWANLease, b)
}

// rebootLease is what the client asks for after a reboot.
type rebootLease struct {
	Address netip.Prefix `json:"address"`
	Server  netip.Addr   `json:"server"`
}

// previousLease is what the client asks for first (INIT-REBOOT, RFC 2131
// section 4.4.2), nil when nothing is known.
func (d *daemon) previousLease() *dhcp4c.Lease {
	b, err := d.state.Get(keyWANLease)
	var r rebootLease
	if err != nil || b == nil || json.Unmarshal(b, &r) != nil || !r.Address.IsValid() {
		return nil
	}
	return &dhcp4c.Lease{Addr: r.Address, Server: r.Server, Acquired: time.Now()}
}

// leaseInRAM is a lease for the next netd. It expires by the time since the
// kernel started: the clock is often set only after the first lease came.
type leaseInRAM struct {
	*facts.WANLease
	ExpiresUp time.Duration
}

// keptLease is the WAN lease of the netd before this one, nil when there is none.
func (d *daemon) keptLease() *facts.WANLease {
	b, err := os.ReadFile(filepath.Join(d.files.run, leaseFile))
	w := leaseInRAM{WANLease: new(facts.WANLease)}
	if err != nil || json.Unmarshal(b, &w) != nil || w.WANLease == nil || !w.Address.IsValid() {
		return nil
	}
	w.Expires = time.Now().Add(w.ExpiresUp - uptime())
	return w.WANLease
}

// takeOver reads what a netd before this one left in the kernel: a WAN lease
// that is still in force goes on, so that a restart cuts no connection.
func (d *daemon) takeOver(ctx context.Context, have netstate.State) {
	d.observed(reconcile.Target{Net: have})
	w := d.keptLease()
	d.leased = w != nil // not for the first time in this boot: it is kept in RAM
	if !plan.InForce(d.planBoard, have, w, time.Now()) {
		return
	}
	d.mu.Lock()
	d.facts.WAN = w
	d.mu.Unlock()
	d.outlive(ctx, w)
}

// outlive ends a lease when it expires that no client watches over: it comes
// from the client before this one.
func (d *daemon) outlive(ctx context.Context, w *facts.WANLease) {
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(w.Expires)):
		}
		d.learn(func(f *facts.Facts) {
			if f.WAN == w { // the client has not heard of any server since
				f.WAN = nil
			}
		})
	}()
}
