// Netd is the router's network manager.
package main

import (
	"os"

	"github.com/culvert-fw/culvert/firmware/netd"
)

func main() { os.Exit(netd.Main()) }
