package main

import (
	"slices"

	"github.com/culvert-fw/culvert/qemu/bench"
)

// registry is a variable for the tests.
var registry = groups

// groups is everything that is measured, in the order of the tables. What one
// package measures is a function in a file of its own here.
func groups() []bench.Group {
	return slices.Concat(machineGroups(), slowpathGroups(), controlGroups(), dnsGroup())
}
