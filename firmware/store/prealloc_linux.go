package store

import (
	"os"
	"syscall"
)

// preallocate takes the room of later small changes now. Without success the
// database works too: it grows when it must.
func preallocate(f *os.File) { _ = syscall.Fallocate(int(f.Fd()), 0, 0, preallocated) }
