package shell

import (
	"bytes"
	"io"
	"sync"
)

const (
	keyInterrupt = 0x03 // Ctrl-C
	keyEnd       = 0x04 // Ctrl-D
	keyEscape    = 0x1b
	// maxTypeAhead bounds what is read ahead of the shell, in bytes; beyond
	// it the sender waits.
	maxTypeAhead = 64 << 10
)

// Input reads a terminal ahead of the shell, so that Ctrl-C interrupts the
// command that runs. One Input serves a terminal for its whole life: several
// logins on a serial line share it.
type Input struct {
	mu          sync.Mutex
	cond        *sync.Cond
	buf         []byte
	err         error
	interrupt   func() // the running command's cancel, nil while a line is edited
	interrupted bool   // the line just read was ended by Ctrl-C
	raw         bool   // bytes belong to a program, not to us
	lastCR      bool
}

// NewInput starts reading r; it stops at r's first error.
func NewInput(r io.Reader) *Input {
	in := &Input{}
	in.cond = sync.NewCond(&in.mu)
	go in.pump(r)
	return in
}

func (in *Input) pump(r io.Reader) {
	chunk := make([]byte, 1024)
	for {
		n, err := r.Read(chunk)
		in.mu.Lock()
		for len(in.buf) >= maxTypeAhead && in.err == nil {
			in.cond.Wait()
		}
		in.take(chunk[:n])
		if err != nil && in.err == nil {
			in.err = err
		}
		done := in.err != nil
		in.cond.Broadcast()
		in.mu.Unlock()
		if done {
			return
		}
	}
}

// take stores what was typed. Ctrl-C while a command runs ends it and drops
// what was typed before it.
func (in *Input) take(p []byte) {
	if in.interrupt != nil && !in.raw {
		if i := bytes.LastIndexByte(p, keyInterrupt); i >= 0 {
			in.buf = in.buf[:0]
			p = p[i+1:]
			in.interrupt()
		}
	}
	in.buf = append(in.buf, p...)
}

// running tells what Ctrl-C shall call, nil for nothing.
func (in *Input) running(interrupt func()) {
	in.mu.Lock()
	in.interrupt = interrupt
	in.mu.Unlock()
}

// setRaw hands the bytes to a program (true) or back to the line editor.
func (in *Input) setRaw(on bool) {
	in.mu.Lock()
	in.raw = on
	in.cond.Broadcast()
	in.mu.Unlock()
}

// Read returns at most one line, so that a line editor never holds bytes that
// belong to what its line starts. Ctrl-C becomes the keys that empty the line
// and enter it.
func (in *Input) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		for len(in.buf) == 0 && in.err == nil {
			in.cond.Wait()
		}
		if len(in.buf) == 0 {
			return 0, in.err
		}
		if n := in.next(p); n > 0 {
			in.cond.Broadcast()
			return n, nil
		}
	}
}

func (in *Input) next(p []byte) int {
	if in.lastCR && in.buf[0] == '\n' { // the rest of a CR LF
		in.buf = in.buf[1:]
		in.lastCR = false
		return 0
	}
	in.lastCR = false
	n := 0
	for n < len(p) && len(in.buf) > 0 {
		c := in.buf[0]
		if c == keyInterrupt {
			if n > 0 {
				return n
			}
			in.buf = in.buf[1:]
			in.interrupted = true
			return copy(p, "\x05\x15\r") // end of line, delete to its start, enter
		}
		in.buf = in.buf[1:]
		p[n] = c
		n++
		if c == keyEnd {
			break // it may end what the line editor reads, too
		}
		if c == '\r' || c == '\n' {
			in.lastCR = c == '\r'
			p[n-1] = '\r'
			break
		}
	}
	return n
}

// ended tells whether no more will come.
func (in *Input) ended() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err != nil && len(in.buf) == 0
}

// wasInterrupted tells, once, whether Ctrl-C ended the last line.
func (in *Input) wasInterrupted() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	was := in.interrupted
	in.interrupted = false
	return was
}

// readRaw reads whatever is there, untranslated, until stop closes raw mode.
func (in *Input) readRaw(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.buf) == 0 && in.err == nil && in.raw {
		in.cond.Wait()
	}
	if !in.raw {
		return 0, io.EOF
	}
	if len(in.buf) == 0 {
		return 0, in.err
	}
	n := copy(p, in.buf)
	in.buf = in.buf[n:]
	in.cond.Broadcast()
	return n, nil
}

// key waits for one key and takes it: a byte, or a sequence that begins with
// escape. It returns without one when the input ends or raw mode does.
func (in *Input) key() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		for len(in.buf) == 0 && in.err == nil && in.raw {
			in.cond.Wait()
		}
		if len(in.buf) == 0 || !in.raw {
			return
		}
		c, n := in.buf[0], 1
		if c == keyEscape {
			n = min(len(in.buf), escapeLen(in.buf))
		}
		rest := in.lastCR && c == '\n' // of the CR LF before
		in.lastCR = c == '\r'
		in.buf = in.buf[n:]
		in.cond.Broadcast()
		if !rest {
			return
		}
	}
}

// escapeLen is the length of what a key sends after escape: a letter after
// "O", parameters and a final byte after "[" (ECMA-48 5.4), else one byte.
func escapeLen(b []byte) int {
	if len(b) < 2 || b[1] != '[' && b[1] != 'O' {
		return 2
	}
	for i := 2; i < len(b); i++ {
		if b[i] >= 0x40 && b[i] <= 0x7e {
			return i + 1
		}
	}
	return len(b)
}

// Close ends every Read; the pump ends with the reader's next byte or error.
func (in *Input) Close() {
	in.mu.Lock()
	if in.err == nil {
		in.err = io.EOF
	}
	in.cond.Broadcast()
	in.mu.Unlock()
}
