package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const boot = "[    0.1] kernel\r\n\r\nCulvert on qemu-mips. " + routerPrompt + "\r\n\x1b[Kculvert> \xff\x00\r\n" + routerPrompt + "\r\n"

// TestHintComesOnceBelowThePrompt, however the bytes arrive, and changes none of them.
func TestHintComesOnceBelowThePrompt(t *testing.T) {
	for _, size := range []int{1, 2, 7, len(boot)} {
		var out, both bytes.Buffer
		c := &console{out: io.MultiWriter(&out, &both), hints: &both, hint: "HINT"}
		for rest := []byte(boot); len(rest) > 0; {
			n := min(size, len(rest))
			if wrote, err := c.Write(rest[:n]); err != nil || wrote != n {
				t.Fatalf("pieces of %d: wrote %d, %v", size, wrote, err)
			}
			rest = rest[n:]
		}
		if out.String() != boot {
			t.Errorf("pieces of %d: the router's bytes became %q", size, out.String())
		}
		if want := strings.Replace(boot, routerPrompt+"\r\n", routerPrompt+"\r\nHINT\r\n", 1); both.String() != want {
			t.Errorf("pieces of %d: the terminal shows %q", size, both.String())
		}
	}
}

func TestHintWithoutPrompt(t *testing.T) {
	var out, hints bytes.Buffer
	c := &console{out: &out, hints: &hints, hint: "HINT"}
	c.giveUp()
	c.giveUp()
	if _, err := c.Write([]byte(boot)); err != nil {
		t.Fatal(err)
	}
	if got := hints.String(); strings.Count(got, "HINT") != 1 || !strings.Contains(got, "No prompt") || out.String() != boot {
		t.Errorf("said %q", got)
	}
}

// TestPromptIsTheRouters: the router prints the text that the hint waits for.
func TestPromptIsTheRouters(t *testing.T) {
	source, err := os.ReadFile("../../firmware/edge/serial.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(source, []byte(routerPrompt)) {
		t.Errorf("firmware/edge/serial.go does not print %q", routerPrompt)
	}
}

// TestSlowTerminal: a terminal that does not block and is full loses nothing.
func TestSlowTerminal(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	in, out := os.NewFile(uintptr(fds[0]), "in"), os.NewFile(uintptr(fds[1]), "out")
	defer in.Close()
	if err := unix.SetNonblock(fds[1], true); err != nil { // as QEMU does, behind Go's back
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // more than a pipe holds
	read := make(chan []byte)
	go func() {
		time.Sleep(50 * time.Millisecond)
		all, _ := io.ReadAll(in)
		read <- all
	}()
	n, err := patient{out}.Write(text)
	out.Close()
	if got := <-read; err != nil || n != len(text) || !bytes.Equal(got, text) {
		t.Errorf("wrote %d of %d, read %d: %v", n, len(text), len(got), err)
	}
}
