package main

import (
	"context"

	"github.com/culvert-fw/culvert/qemu/bench/dnsload"
)

func init() {
	add("dns", func(ctx context.Context, o dnsload.Options) (any, error) { return dnsload.Measure(ctx, o) })
}
