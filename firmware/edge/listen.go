package edge

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenKey is where something listens; the zero value is nowhere.
type listenKey struct {
	device string
	addr   netip.AddrPort
}

func (k listenKey) valid() bool { return k.addr.Addr().IsValid() && k.addr.Port() != 0 }

// keeper keeps one service listening where it is wanted.
type keeper struct {
	log   *slog.Logger
	name  string
	serve func(ctx context.Context, k listenKey) error
	keys  chan listenKey
}

func newKeeper(log *slog.Logger, name string, serve func(context.Context, listenKey) error) *keeper {
	return &keeper{log: log, name: name, serve: serve, keys: make(chan listenKey, 1)}
}

// want says where to listen from now on; the latest word counts. Only one
// goroutine may call it.
func (k *keeper) want(key listenKey) {
	select {
	case <-k.keys:
	default:
	}
	k.keys <- key
}

// run serves at the wanted place until ctx ends: anew when the place changes,
// and, after a pause, when serving failed (the interface may come later).
func (k *keeper) run(ctx context.Context) {
	var key listenKey
	retry := minRetry
	for {
		ended := make(chan error, 1)
		inner, cancel := context.WithCancel(ctx)
		start := time.Now()
		if key.valid() {
			go func(key listenKey) { ended <- k.serve(inner, key) }(key)
		}
		var again <-chan time.Time
		next, moved := key, false
		for !moved {
			select {
			case next = <-k.keys:
				moved = next != key
			case err := <-ended:
				k.log.Warn("edge: not listening", "service", k.name, "on", key.addr, "device", key.device, "err", err)
				if time.Since(start) > maxRetry {
					retry = minRetry
				}
				again = time.After(retry)
				retry = min(2*retry, maxRetry)
				ended <- nil // for the wait below
				select {
				case next = <-k.keys:
				case <-again:
				case <-ctx.Done():
				}
				moved = true
			case <-ctx.Done():
				moved = true
			}
		}
		cancel()
		if key.valid() {
			<-ended
		}
		if ctx.Err() != nil {
			return
		}
		if next != key {
			retry = minRetry
		}
		key = next
	}
}

// serveSSH listens for SSH; life is that of the connections.
func (e *Edge) serveSSH(life context.Context, lan bool) func(context.Context, listenKey) error {
	return func(ctx context.Context, k listenKey) error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			if err := c.Control(func(fd uintptr) { serr = bindTo(int(fd), k.device) }); err != nil {
				return err
			}
			return serr
		}}
		ln, err := lc.Listen(ctx, "tcp4", k.addr.String())
		if err != nil {
			return err
		}
		e.o.Log.Info("edge: ssh listens", "on", k.addr, "device", k.device)
		return e.ssh.Serve(ctx, life, ln, lan)
	}
}

// bindTo keeps a socket to one interface, and lets it bind to an address that
// is not there yet.
func bindTo(fd int, device string) error {
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return err
		}
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
}
