package main

import (
	"github.com/culvert-fw/culvert/qemu/bench"
	"github.com/culvert-fw/culvert/qemu/bench/forward"
	"github.com/culvert-fw/culvert/qemu/bench/requests"
	"github.com/culvert-fw/culvert/qemu/bench/startup"
)

func machineGroups() []bench.Group {
	return []bench.Group{forward.Group(), startup.Group(), requests.Group()}
}
