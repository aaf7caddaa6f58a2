// Agent is the init of the lab's peers: it makes hosts as namespaces and runs
// programs in them as package peers asks.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	if len(os.Args) > 2 && os.Args[1] == "host" {
		err = serveHost(os.Args[2])
	} else {
		err = serveMachine()
	}
	fmt.Fprintln(os.Stderr, "agent:", err)
	os.Exit(1)
}
