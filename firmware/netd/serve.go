package netd

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/boot/initctl"
)

// serviceNames are those that may be restarted and have a log.
var serviceNames = []string{"netd", "edge"}

// serveAPI answers root and edge.
func (d *daemon) serveAPI(ctx context.Context, ln net.Listener) error {
	err := api.Serve(ctx, ln, api.Options{
		Allow: func(uid uint32) bool { return uid == 0 || uid == edgeUID },
		Log:   d.log,
		Handlers: map[string]api.Handler{
			api.MethodHealth:      api.Handle(d.health),
			api.MethodStatus:      api.Handle(d.status),
			api.MethodInterfaces:  api.Handle(d.interfaces),
			api.MethodLeases:      api.Handle(d.leasesOf),
			api.MethodPassthrough: api.Handle(d.sessions),
			api.MethodCounters:    api.Handle(d.counters),
			api.MethodProtection:  api.Handle(d.protection),
			api.MethodConnections: api.Handle(d.connections),
			api.MethodFirewall:    api.Handle(d.firewall),
			api.MethodDiagnose:    api.Handle(d.diagnose),
			api.MethodLog:         api.Handle(d.logOf),
			api.MethodVersion:     api.Handle(d.versionOf),
			api.MethodSettings:    api.Handle(d.settingsOf),
			api.MethodCommit:      api.Handle(d.commit),
			api.MethodConfirm:     api.Handle(d.confirmPending),
			api.MethodRollback:    api.Handle(d.rollback),
			api.MethodHistory:     api.Handle(d.history),
			api.MethodClaim:       api.Handle(d.claim),
			api.MethodPassword:    api.Handle(d.setPassword),
			api.MethodAddKey:      api.Handle(d.addKey),
			api.MethodRemoveKey:   api.Handle(d.removeKey),
			api.MethodLoginNote:   api.Handle(d.login),
			api.MethodEdgeStats:   api.Handle(d.edges.count),
			api.MethodReboot:      api.Handle(d.power("reboot", (*initctl.Client).Reboot)),
			api.MethodPoweroff:    api.Handle(d.power("poweroff", (*initctl.Client).Poweroff)),
			api.MethodReset:       api.Handle(d.power("factory-reset", (*initctl.Client).FactoryReset)),
			api.MethodRestart:     api.Handle(d.restart),
		},
		Streams: map[string]api.StreamHandler{
			api.MethodEdgeWatch:     api.HandleStream(d.edges.watch),
			api.MethodDiagnoseWatch: api.HandleStream(d.diagnoseWatch),
		},
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// health is api.MethodHealth: it answers only when the reconcile loop does.
func (d *daemon) health(ctx context.Context, _ api.Peer, _ none) (none, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	return none{}, d.rec.Health(ctx)
}

// power hands a request for the end of it all to init.
func (d *daemon) power(what string, do func(*initctl.Client) error) func(context.Context, api.Peer, api.Author) (none, error) {
	return func(_ context.Context, _ api.Peer, a api.Author) (none, error) {
		a = d.named(a)
		d.log.Warn(what, "by", who(a))
		if d.known().Synced {
			d.saveTime(time.Now())
		}
		return none{}, d.init.with(do)
	}
}

// restart is api.MethodRestart.
func (d *daemon) restart(_ context.Context, _ api.Peer, p api.RestartParams) (none, error) {
	if !slices.Contains(serviceNames, p.Service) {
		return none{}, &api.Error{Code: "invalid", Text: "No service " + p.Service + ". There are: netd, edge."}
	}
	d.log.Warn("restart", "service", p.Service, "by", who(d.named(p.Author)))
	return none{}, d.init.with(func(c *initctl.Client) error { return c.Kill(p.Service) })
}

// count is api.MethodEdgeStats.
func (e *edges) count(_ context.Context, _ api.Peer, s api.EdgeStats) (none, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats = s
	return none{}, nil
}

func (e *edges) counters() api.EdgeStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}
