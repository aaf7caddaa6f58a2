// Command server is Culvert's name server by itself, as edge runs it: what the
// benchmark compares with dnsmasq.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/culvert-fw/culvert/firmware/dns"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:53", "answer at `ADDR:PORT`")
	upstream := flag.String("upstream", "", "ask `ADDR:PORT`")
	cache := flag.Int("cache", dns.DefaultCacheSize, "keep `N` answers")
	cpu := flag.String("cpuprofile", "", "write a CPU profile to `FILE`")
	mem := flag.String("memprofile", "", "write an allocation profile to `FILE`")
	flag.Parse()
	at, err := netip.ParseAddrPort(*listen)
	up, uerr := netip.ParseAddrPort(*upstream)
	if err := errors.Join(err, uerr); err != nil {
		return fmt.Errorf("-listen %q, -upstream %q: %w", *listen, *upstream, err)
	}
	if *mem != "" {
		runtime.MemProfileRate = 512
	}
	if *cpu != "" {
		f, err := os.Create(*cpu)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if err := serve(at, up, *cache); err != nil || *mem == "" {
		return err
	}
	f, err := os.Create(*mem)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup("allocs").WriteTo(f, 0)
}

// serve is what edge does with the settings' defaults.
func serve(at, upstream netip.AddrPort, cache int) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := dns.New(dns.Options{Log: slog.Default(), Now: time.Now, Rand: rand.Reader})
	s.SetConfig(dns.Config{
		Upstreams: []netip.AddrPort{upstream},
		Domain:    "culvert.lan",
		Router:    at.Addr(),
		Clients:   []netip.Prefix{netip.PrefixFrom(at.Addr(), 24).Masked()},
		CacheSize: cache,
	})
	l, err := dns.Listen(ctx, "lo", at)
	if err != nil {
		return err
	}
	return s.Run(ctx, l)
}
