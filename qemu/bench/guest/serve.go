package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// measures are what the host can ask for. params is what the host sent; the result is sent back.
var measures = map[string]func(ctx context.Context, params json.RawMessage) (any, error){}

// Request is one line of the host, reply the line that answers it.
type (
	request struct {
		Do     string          `json:"do"`
		Params json.RawMessage `json:"params,omitempty"`
	}
	reply struct {
		Result any    `json:"result,omitempty"`
		Error  string `json:"error,omitempty"`
	}
)

// serve answers requests on the serial line, one at a time, for ever.
func serve(line string) error {
	f, err := os.OpenFile(line, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := raw(f); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	in := bufio.NewReader(f)
	if _, err := io.WriteString(f, `{"result":"ready"}`+"\n"); err != nil {
		return err
	}
	for {
		b, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		answer, err := json.Marshal(handle(b))
		if err != nil {
			return err
		}
		if _, err := f.Write(append(answer, '\n')); err != nil {
			return err
		}
	}
}

func handle(b []byte) reply {
	var r request
	if err := json.Unmarshal(b, &r); err != nil {
		return reply{Error: fmt.Sprintf("request %q: %v", b, err)}
	}
	m := measures[r.Do]
	if m == nil {
		return reply{Error: fmt.Sprintf("%q cannot be measured", r.Do)}
	}
	result, err := m(context.Background(), r.Params)
	if err != nil {
		return reply{Error: err.Error()}
	}
	return reply{Result: result}
}

// raw turns off what a terminal does with bytes.
func raw(f *os.File) error {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

// add makes a measure that takes parameters of type P.
func add[P any](name string, f func(context.Context, P) (any, error)) {
	measures[name] = func(ctx context.Context, raw json.RawMessage) (any, error) {
		var p P
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &p); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return f(ctx, p)
	}
}

func hasWord(s, word string) bool { return slices.Contains(strings.Fields(s), word) }
