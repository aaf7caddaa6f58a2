package main

import (
	"context"
	"os"

	"github.com/culvert-fw/culvert/qemu/bench/dnsload"
)

func init() {
	add("dns", func(ctx context.Context, o dnsload.Options) (any, error) { return nameServers(ctx, o) })
}

// nameServers measures with all programs at the same addresses each time: this CPU has 16 pairs of
// pages at hand, and where the pages are decides how often the kernel has to look for one.
func nameServers(ctx context.Context, o dnsload.Options) (dnsload.Result, error) {
	const random = "/proc/sys/kernel/randomize_va_space"
	if err := os.WriteFile(random, []byte("0"), 0o600); err != nil {
		return dnsload.Result{}, err
	}
	r, err := dnsload.Measure(ctx, o)
	if rerr := os.WriteFile(random, []byte("2"), 0o600); err == nil {
		err = rerr
	}
	return r, err
}
