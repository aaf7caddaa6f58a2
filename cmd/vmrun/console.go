package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// routerPrompt is what the router prints on its serial line when it is ready for a person
// (firmware/edge).
const routerPrompt = "Press Enter to begin."

// promptLimit: a machine that says nothing for so long may never; a person must know how to leave.
const promptLimit = time.Minute

// console passes on what QEMU writes for the terminal, byte by byte as it comes, and says its hint
// once, below the router's prompt. The terminal's raw mode is QEMU's: it sets that on its input.
type console struct {
	out, hints io.Writer
	hint       string
	late       *time.Timer

	mu   sync.Mutex
	said bool
	line []byte // the line under way, until the hint is said
}

func newConsole(out, hints *os.File, hint string) *console {
	c := &console{out: patient{out}, hints: patient{hints}, hint: hint}
	c.late = time.AfterFunc(promptLimit, c.giveUp)
	return c
}

// Write passes p on. The hint comes after the end of the prompt's line.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for !c.said {
		end := bytes.IndexByte(p[done:], '\n')
		if end < 0 {
			c.line = append(c.line, p[done:]...)
			break
		}
		line := append(c.line, p[done:done+end]...)
		c.line = c.line[:0]
		if bytes.Contains(line, []byte(routerPrompt)) {
			n, err := c.out.Write(p[:done+end+1])
			if err != nil {
				return n, err
			}
			c.say("")
			n2, err := c.out.Write(p[n:])
			return n + n2, err
		}
		done += end + 1
	}
	return c.out.Write(p)
}

// giveUp says the hint when there is no prompt.
func (c *console) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.said {
		c.say("\r\nNo prompt from the router yet. ")
	}
}

// say prints the hint; the terminal is raw, so the line ends in CR LF. That it could not be printed
// must not end the router.
func (c *console) say(before string) {
	c.said, c.line = true, nil
	_, _ = io.WriteString(c.hints, before+c.hint+"\r\n")
}

func (c *console) close() { c.late.Stop() }

// patient writes to a file that may not block: QEMU makes its input that, and a terminal is one
// open file for input and output. A terminal that is slow is waited for.
type patient struct{ f *os.File }

func (w patient) Write(p []byte) (int, error) {
	done := 0
	for {
		n, err := w.f.Write(p[done:])
		done += max(n, 0)
		if !errors.Is(err, unix.EAGAIN) {
			return done, err
		}
		fds := []unix.PollFd{{Fd: int32(w.f.Fd()), Events: unix.POLLOUT}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return done, err
		}
	}
}
