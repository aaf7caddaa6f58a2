package shell

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

const watchEvery = time.Second

// VT100 sequences.
const (
	cursorHome = "\x1b[H"
	eraseLine  = "\x1b[K" // from the cursor to its end
	eraseBelow = "\x1b[J" // from the cursor to the end of the screen
)

// watch shows what draw writes every second: on a terminal in the same place
// until a key is pressed, else one after the other until the reader is gone.
// A failure is shown in that place: the network manager may be restarting.
func (s *Shell) watch(ctx context.Context, draw func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := s.o.Terminal
	if t != nil {
		t.in.setRaw(true) // Ctrl-C is a key like others
		pressed := make(chan struct{})
		defer func() {
			t.in.setRaw(false)
			<-pressed
		}()
		go func() {
			defer close(pressed)
			defer cancel()
			t.in.key()
		}()
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		var b bytes.Buffer
		if err := draw(&b); err != nil && ctx.Err() == nil {
			fmt.Fprintln(&b, err)
		}
		var err error
		if t != nil {
			w, h := t.size()
			_, err = io.WriteString(s.c, frame(b.String(), clock(s.o.Now()), w, h))
		} else {
			_, err = fmt.Fprintf(s.c, "%s UTC\n%s\n", clock(s.o.Now()), b.String())
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// frame is text in place of what the screen showed, cut to its size: a line
// more, and it would scroll.
func frame(text, at string, width, height int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	room := max(1, height-2) // the title, and the line the cursor ends on
	if len(lines) > room {
		more := len(lines) - room + 1
		lines = append(lines[:room-1:room-1], fmt.Sprintf("(%d more lines; a larger terminal shows them)", more))
	}
	var b strings.Builder
	b.WriteString(cursorHome)
	for _, l := range append([]string{at + " UTC, any key ends"}, lines...) {
		if utf8.RuneCountInString(l) >= width { // a terminal may break a full line by itself
			l = string([]rune(l)[:max(0, width-1)])
		}
		b.WriteString(l + eraseLine + "\n")
	}
	return b.String() + eraseBelow
}
