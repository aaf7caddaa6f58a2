// Command guest is the benchmark's part in the router: PID 1 until the product's own init takes
// over, and then a server on the second serial line that measures when the host asks.
//
// The product's root file system is used as it is. This program, and the peers, come on a disk of
// their own from which the kernel starts (root=, init=/guest).
package main

import (
	"fmt"
	"os"
)

// serial is the line to the host.
const serial = "/dev/ttyS1"

func main() {
	var err error
	if os.Getpid() == 1 {
		err = boot()
	} else {
		err = started()
		if err == nil {
			err = serve(serial)
		}
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	os.Exit(1)
}

// started begins to count, and tells PID 1, which waits, through the pipe that it gave.
func started() error {
	if err := watched.begin(); err != nil {
		return err
	}
	const pipe = 3
	f := os.NewFile(pipe, "PID 1")
	if _, err := f.Write([]byte{1}); err != nil {
		return err
	}
	return f.Close()
}
