package shell_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/shell"
	"github.com/culvert-fw/culvert/firmware/transcript"
)

// growing is a network manager whose only tunnel has one byte more each time
// it is asked, and which is away the second time.
type growing struct {
	shell.Caller
	asked uint64
}

func (g *growing) Call(ctx context.Context, method string, params, result any) error {
	if method != api.MethodPassthrough {
		return g.Caller.Call(ctx, method, params, result)
	}
	g.asked++
	if g.asked == 2 {
		return &api.Error{Code: "away", Text: "The network manager does not answer."}
	}
	raw, err := json.Marshal([]api.Session{{Protocol: "ipsec", Kind: "nat-t", Device: ip("192.168.1.101"), Server: ip("198.51.100.9"),
		IDs: "udp 4500>4500", State: "up", Owner: "exact", PktsOut: 770 + g.asked}})
	if err == nil {
		err = json.Unmarshal(raw, result)
	}
	return err
}

// waitFor waits until text has been written.
func waitFor(t *testing.T, out *transcript.Buffer, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q; so far:\n%q", text, out.String())
		}
	}
}

// TestWatch: the list is drawn in the same place again, also after an error,
// until a key, which is not the beginning of the next line.
func TestWatch(t *testing.T) {
	for name, key := range map[string]string{"letter": "q", "Ctrl-C": "\x03", "arrow": "\x1b[A", "Enter": "\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := apitest.New(t)
			n.Start(t)
			r, w := io.Pipe()
			var out transcript.Buffer
			o := options(n)
			o.API = &growing{Caller: o.API}
			o.Terminal = shell.NewTerminal(shell.NewInput(r), &out)
			done := make(chan int, 1)
			go func() { done <- shell.New(o).Run(context.Background()) }()
			io.WriteString(w, "show passthrough --watch\r\n")
			waitFor(t, &out, "out 771 packets")
			waitFor(t, &out, "does not answer")
			waitFor(t, &out, "out 773 packets")
			if got := strings.Count(out.String(), "\x1b[H"); got < 3 {
				t.Errorf("drawn from the top %d times", got)
			}
			io.WriteString(w, key)
			waitFor(t, &out, "\x1b[Jculvert> ")
			io.WriteString(w, "exit\r")
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("the key became part of the next line")
			}
			if strings.Count(out.String(), "culvert> ") != 2 {
				t.Errorf("%q", out.String())
			}
		})
	}
}

// TestWatchOneShot: without a terminal one list follows the other, in full
// width and without escape sequences, until the reader is gone.
func TestWatchOneShot(t *testing.T) {
	n := apitest.New(t)
	n.Start(t)
	var out transcript.Buffer
	o := options(n)
	o.API, o.Stdout = &growing{Caller: o.API}, &out
	ctx, gone := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() { done <- shell.New(o).Exec(ctx, "show passthrough --watch") }()
	waitFor(t, &out, " 771 ")
	waitFor(t, &out, " 773 ")
	gone()
	select {
	case status := <-done:
		if status != 0 || strings.Contains(out.String(), "\x1b") {
			t.Errorf("status %d, %q", status, out.String())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on without a reader")
	}
}

// TestWatchSize: a frame never has more lines or columns than the terminal.
func TestWatchSize(t *testing.T) {
	for _, size := range [][2]int{{20, 4}, {40, 10}, {60, 24}, {80, 8}, {132, 24}} {
		n := apitest.New(t)
		canned(n)
		n.Start(t)
		var out transcript.Buffer
		o := options(n)
		o.Terminal = shell.NewTerminal(shell.NewInput(strings.NewReader("q")), &out)
		o.Terminal.SetSize(size[0], size[1])
		before := len(out.String())
		if status := shell.New(o).Exec(context.Background(), "show passthrough --watch"); status != 0 {
			t.Fatal(status, out.String())
		}
		lines := strings.Split(strings.TrimSuffix(screen(out.String()[before:]), "\n"), "\n")
		if len(lines) > size[1] || len(lines) < 3 {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if len(l) >= size[0] {
				t.Errorf("%v: %d columns: %s", size, len(l), l)
			}
		}
	}
}

// TestWidths: every tunnel is shown in full on any terminal.
func TestWidths(t *testing.T) {
	for width, want := range map[int]string{
		140: "laptop         203.0.113.5      pptp data     up           exact   call 0x4a1f/0x0002  1m34s    0s  41231   4.6M    65120    87M\r\n",
		80:  "laptop         203.0.113.5      pptp data     up           1m34s    0s\r\n  call 0x4a1f/0x0002, exact, out 41231 packets 4.6M, in 65120 packets 87M\r\n",
		40:  "laptop 203.0.113.5 pptp data up, age\r\n1m34s, last 0s\r\n  call 0x4a1f/0x0002, exact, out 41231\r\n  packets 4.6M, in 65120 packets 87M\r\n",
	} {
		n := apitest.New(t)
		canned(n)
		n.Start(t)
		var out transcript.Buffer
		o := options(n)
		o.Terminal = shell.NewTerminal(shell.NewInput(new(bytes.Buffer)), &out)
		o.Terminal.SetSize(width, 24)
		shell.New(o).Exec(context.Background(), "show passthrough")
		if !strings.Contains(out.String(), want) {
			t.Errorf("%d columns: no %q in\n%s", width, want, out.String())
		}
	}
}

// TestBehind: what is before the router is said, with what to do.
func TestBehind(t *testing.T) {
	for _, c := range []struct {
		p    api.Protection
		want string
	}{
		{api.Protection{}, "no address; see why: show status"},
		{api.Protection{Address: ip("203.0.113.2"), Behind: "none"}, "Internet: 203.0.113.2, not behind another NAT"},
		{api.Protection{Address: ip("100.64.0.2"), Behind: "cgnat"}, "behind the provider's NAT (CGNAT, RFC 6598)"},
		{api.Protection{Address: ip("10.0.0.2"), Behind: "nat"}, "another router before this one does NAT as well"},
	} {
		n := apitest.New(t)
		n.Answers = map[string]any{api.MethodProtection: c.p}
		n.Start(t)
		var out transcript.Buffer
		o := options(n)
		o.Stdout = &out
		if shell.New(o).Exec(context.Background(), "show protection") != 0 || !strings.Contains(out.String(), c.want) ||
			!strings.Contains(out.String(), "No device on the LAN has a connection") {
			t.Errorf("no %q in %q", c.want, out.String())
		}
	}
}
