// Package qemu holds the tests that run on a router in QEMU between real VPN
// peers. Each boots the very image that a person would flash.
package qemu

import (
	"os"
	"testing"

	"github.com/culvert-fw/culvert/qemu/lab"
)

func TestMain(m *testing.M) {
	code := m.Run()
	lab.Cleanup()
	os.Exit(code)
}
