package shell

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"sync"

	"golang.org/x/term"
)

// errInterrupted is what reading a line returns after Ctrl-C.
var errInterrupted = errors.New("interrupted")

// maxPaste bounds an import, in bytes.
const maxPaste = 4 << 20

// console is where a session reads lines and writes text: a Terminal, or
// plain streams.
type console interface {
	io.Writer
	// line reads a line after showing prompt; io.EOF at the end of input.
	line(prompt string) (string, error)
	// secret reads a line that is not shown.
	secret(prompt string) (string, error)
	// paste reads until the end of input, Ctrl-D on a terminal or a line ".".
	paste() ([]byte, error)
}

// Terminal is a VT100 terminal with a line editor on any pair of streams.
type Terminal struct {
	in      *Input
	out     io.Writer
	history history

	mu     sync.Mutex
	t      *term.Terminal // use editor
	width  int
	height int
	sized  func(width, height int) // told about a new size; may be nil
}

// NewTerminal makes a terminal of in and out, 80 columns wide until SetSize.
func NewTerminal(in *Input, out io.Writer) *Terminal {
	t := &Terminal{in: in, out: out, width: 80, height: 24}
	t.renew()
	return t
}

// renew gives the terminal a new line editor: the one that met Ctrl-D keeps
// that key, and would meet it again at the next line.
func (t *Terminal) renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{t.in, t.out}, "")
	e.History = &t.history
	e.SetSize(t.width, t.height) //nolint:errcheck // writes nothing yet
	if t.t != nil {
		e.AutoCompleteCallback = t.t.AutoCompleteCallback
	}
	t.t = e
}

func (t *Terminal) editor() *term.Terminal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.t
}

// onKey says who is asked about keys that the line editor does not know, nil
// for nobody.
func (t *Terminal) onKey(f func(line string, pos int, key rune) (string, int, bool)) {
	t.editor().AutoCompleteCallback = f
}

// SetSize tells the terminal its size in characters; 0 leaves it as it is.
func (t *Terminal) SetSize(width, height int) {
	if width <= 0 || height <= 0 {
		return
	}
	t.mu.Lock()
	t.width, t.height = width, height
	if t.sized != nil {
		t.sized(width, height)
	}
	t.mu.Unlock()
	t.editor().SetSize(width, height) //nolint:errcheck // repaints; a dead terminal shows at the next read
}

// size is the terminal's size in characters.
func (t *Terminal) size() (width, height int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.width, t.height
}

// onResize calls f with the size now and with every later one; nil ends it.
// After it returned, what was set before is not called any more.
func (t *Terminal) onResize(f func(width, height int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sized = f; f != nil {
		f(t.width, t.height)
	}
}

// Write shows text, with a carriage return before every newline.
func (t *Terminal) Write(p []byte) (int, error) { return t.editor().Write(p) }

func (t *Terminal) line(prompt string) (string, error) {
	e := t.editor()
	e.SetPrompt(prompt)
	line, err := e.ReadLine()
	if errors.Is(err, term.ErrPasteIndicator) {
		err = nil
	}
	return t.entered(line, err)
}

func (t *Terminal) secret(prompt string) (string, error) {
	return t.entered(t.editor().ReadPassword(prompt))
}

// entered is what reading a line comes to.
func (t *Terminal) entered(line string, err error) (string, error) {
	if errors.Is(err, io.EOF) {
		t.renew()
	}
	if t.in.wasInterrupted() {
		return "", errInterrupted
	}
	return line, err
}

// paste reads beside the line editor, whose lines are bounded at 4096 characters.
func (t *Terminal) paste() ([]byte, error) {
	var b []byte
	key := make([]byte, 256)
	for {
		n, err := t.in.Read(key)
		if err != nil {
			return nil, err
		}
		if t.in.wasInterrupted() {
			io.WriteString(t, "\n")
			return nil, errInterrupted
		}
		for _, c := range key[:n] {
			switch {
			case c == keyEnd:
				io.WriteString(t, "\n")
				return b, nil
			case c == 0x7f || c == '\b':
				if len(b) > 0 && b[len(b)-1] != '\n' {
					b = b[:len(b)-1]
					io.WriteString(t, "\b \b")
				}
			case c == '\r':
				io.WriteString(t, "\n")
				if lastLine(b) == "." {
					return b[:len(b)-1], nil
				}
				b = append(b, '\n')
			default:
				t.Write([]byte{c})
				b = append(b, c)
			}
		}
		if len(b) > maxPaste {
			return nil, errors.New("more than 4 MB were pasted; nothing was imported")
		}
	}
}

func lastLine(b []byte) string {
	s := string(b[max(0, len(b)-64):])
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// history keeps commands, not answers to questions.
type history struct {
	lines []string // the latest last
	off   bool
}

const maxHistory = 100

func (h *history) Add(line string) {
	if h.off || strings.TrimSpace(line) == "" || len(h.lines) > 0 && h.lines[len(h.lines)-1] == line {
		return
	}
	h.lines = append(h.lines, line)
	if len(h.lines) > maxHistory {
		h.lines = h.lines[1:]
	}
}

func (h *history) Len() int { return len(h.lines) }

func (h *history) At(i int) string { return h.lines[len(h.lines)-1-i] }

// streams are plain input and output, for scripts.
type streams struct {
	in  *bufio.Reader
	out io.Writer
}

func newStreams(in io.Reader, out io.Writer) *streams {
	if in == nil {
		in = strings.NewReader("")
	}
	return &streams{in: bufio.NewReader(in), out: out}
}

func (s *streams) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s *streams) line(string) (string, error) {
	var b []byte
	for {
		part, err := s.in.ReadSlice('\n')
		b = append(b, part...)
		switch {
		case len(b) > maxPaste:
			return "", errors.New("a line of more than 4 MB")
		case err == nil || errors.Is(err, io.EOF) && len(b) > 0:
			return strings.TrimRight(string(b), "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

func (s *streams) secret(prompt string) (string, error) { return s.line(prompt) }

func (s *streams) paste() ([]byte, error) {
	var b []byte
	for {
		line, err := s.line("")
		if errors.Is(err, io.EOF) || line == "." {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		b = append(append(b, line...), '\n')
		if len(b) > maxPaste {
			return nil, errors.New("more than 4 MB were given; nothing was imported")
		}
	}
}
