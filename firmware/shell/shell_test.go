package shell_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/golden"
	"github.com/culvert-fw/culvert/firmware/shell"
	"github.com/culvert-fw/culvert/firmware/transcript"
)

// keys makes the escapes of a golden's typed lines into keys: <Tab>, <Up>, <^C>, <^D>.
var keys = strings.NewReplacer("<Tab>", "\t", "<Up>", "\x1b[A", "<^C>", "\x03", "<^D>", "\x04", "<^U>", "\x15", "<BS>", "\x7f")

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// screen is what a person sees of a line-oriented terminal: it applies carriage
// returns, backspaces and the cursor keys that the line editor sends.
func screen(raw string) string {
	var lines []string
	line, x := []rune{}, 0
	put := func(r rune) {
		for len(line) <= x {
			line = append(line, ' ')
		}
		line[x] = r
		x++
	}
	for i := 0; i < len(raw); {
		if loc := escapes.FindStringIndex(raw[i:]); loc != nil && loc[0] == 0 {
			seq := raw[i : i+loc[1]]
			i += loc[1]
			switch {
			case strings.HasSuffix(seq, "K"):
				line = line[:min(x, len(line))]
			case strings.HasSuffix(seq, "D"):
				x = max(0, x-count(seq))
			case strings.HasSuffix(seq, "C"):
				x += count(seq)
			}
			continue
		}
		switch c := raw[i]; c {
		case '\r':
			x = 0
		case '\n':
			lines = append(lines, strings.TrimRight(string(line), " "))
			line, x = []rune{}, 0
		default:
			put(rune(c))
		}
		i++
	}
	return strings.Join(append(lines, strings.TrimRight(string(line), " ")), "\n") + "\n"
}

// count is the number in a cursor sequence, 1 when there is none.
func count(seq string) int {
	n, err := strconv.Atoi(seq[2 : len(seq)-1])
	if err != nil {
		return 1
	}
	return n
}

func options(n *apitest.Netd) shell.Options {
	return shell.Options{
		API:    api.NewClient(n.Socket),
		Author: api.Author{Via: "ssh", Addr: netip.MustParseAddr("192.168.1.100")},
		Now:    n.Now,
		Hash: func(p string) (string, error) {
			if len(p) < 12 {
				return "", errors.New("too short")
			}
			return "$argon2id$v=19$m=8192,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g", nil
		},
	}
}

// TestGoldens types the lines of "typed" on a terminal, or runs those of
// "oneshot" one by one, and compares the screen.
func TestGoldens(t *testing.T) {
	golden.Run(t, func(t *testing.T, in map[string]string) map[string]string {
		n := apitest.New(t)
		canned(n)
		n.Start(t)
		if lines, ok := in["oneshot"]; ok {
			return map[string]string{"screen": oneShots(n, lines)}
		}
		return map[string]string{"screen": typed(t, n, in["typed"])}
	})
}

// typed types lines; "other: WORDS" makes another admin set something meanwhile.
func typed(t *testing.T, n *apitest.Netd, lines string) string {
	r, w := io.Pipe()
	var out transcript.Buffer
	in := shell.NewInput(r)
	term := shell.NewTerminal(in, &out)
	o := options(n)
	o.Terminal = term
	done := make(chan int, 1)
	go func() { done <- shell.New(o).Run(context.Background()) }()
	typed := 0
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		if words, ok := strings.CutPrefix(line, "other: "); ok {
			settle(t, &out, typed)
			n.Edit(t, api.Author{Via: "serial"}, strings.Fields(words)...)
			continue
		}
		if raw, ok := strings.CutSuffix(line, "<no Enter>"); ok {
			io.WriteString(w, keys.Replace(raw))
			continue
		}
		io.WriteString(w, keys.Replace(line)+"\r")
		typed++
	}
	w.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Errorf("the session did not end; so far:\n%s", screen(out.String()))
	}
	return screen(out.String())
}

var prompts = regexp.MustCompile(`culvert[^ ]*> `)

// settle waits until the shell prompts for more than the lines typed so far.
func settle(t *testing.T, out *transcript.Buffer, typed int) {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if len(prompts.FindAllString(out.String(), -1)) > typed {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("no prompt; so far:\n%s", screen(out.String()))
}

func oneShots(n *apitest.Netd, lines string) string {
	var b strings.Builder
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		b.WriteString("$ " + line + "\n")
		cmd, stdin, _ := strings.Cut(line, " <<< ")
		var out, errs bytes.Buffer
		o := options(n)
		o.Stdin, o.Stdout, o.Stderr = strings.NewReader(stdin), &out, &errs
		status := shell.New(o).Exec(context.Background(), cmd)
		b.WriteString(out.String())
		for l := range strings.Lines(errs.String()) {
			b.WriteString("stderr: " + l)
		}
		if status != 0 {
			b.WriteString("status: failed\n")
		}
	}
	return b.String()
}

// cutter is a network manager whose commit ends the session: nothing that is
// written from then on is read.
type cutter struct {
	shell.Caller
	out  *transcript.Buffer
	read string
}

func (c *cutter) Call(ctx context.Context, method string, params, result any) error {
	if p, ok := params.(api.CommitParams); ok && method == api.MethodCommit && !p.Preview {
		c.read = c.out.String()
	}
	return c.Caller.Call(ctx, method, params, result)
}

// TestForewarned: what a commit has to tell is shown before it cuts the session.
func TestForewarned(t *testing.T) {
	n := apitest.New(t)
	n.CommitNotes = []string{"The router answers at 192.168.5.1 then."}
	n.Start(t)
	var out transcript.Buffer
	o := options(n)
	c := &cutter{Caller: o.API, out: &out}
	o.API, o.Stdin, o.Stdout = c, strings.NewReader(""), &out
	o.Author.Conn = &api.Conn{Local: netip.MustParseAddrPort("192.168.1.1:22"), Remote: netip.MustParseAddrPort("192.168.1.100:40000")}
	if status := shell.New(o).Exec(context.Background(), "set lan address 192.168.5.1/24; commit"); status != 0 {
		t.Fatalf("failed: %s", out.String())
	}
	if !strings.Contains(c.read, n.CommitNotes[0]) || strings.Count(out.String(), n.CommitNotes[0]) != 1 {
		t.Errorf("before the commit %q, in all %q", c.read, out.String())
	}
}
