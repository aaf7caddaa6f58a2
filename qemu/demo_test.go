package qemu

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/transcript"
	"github.com/culvert-fw/culvert/qemu/lab"
)

// terminal is a program on a pseudo terminal of 150 columns.
type terminal struct {
	t     *testing.T
	pid   int // of the program
	shown transcript.Buffer
	keys  io.Writer
	ended chan error
}

// onTerminal starts a program on a terminal that script(1) makes.
func onTerminal(t *testing.T, program string) *terminal {
	t.Helper()
	term := &terminal{t: t, ended: make(chan error, 1)}
	cmd := exec.Command("script", "-qec", "stty rows 40 cols 150; echo pid $$.; exec "+program, "/dev/null")
	cmd.Stdout, cmd.Stderr = &term.shown, &term.shown
	var err error
	if term.keys, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("missing: %v (bsdutils)", err)
	}
	go func() { term.ended <- cmd.Wait() }()
	m := term.until(time.Minute, regexp.MustCompile(`pid (\d+)\.`).FindStringSubmatch)
	term.pid, _ = strconv.Atoi(m[1])
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the terminal showed:\n%s", term.shown.String())
			if p, err := os.FindProcess(term.pid); err == nil {
				p.Signal(os.Interrupt)
			}
		}
	})
	return term
}

// until waits until find finds something in what was shown.
func (term *terminal) until(limit time.Duration, find func(string) []string) []string {
	term.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if m := find(term.shown.String()); m != nil {
			return m
		}
		select {
		case err := <-term.ended:
			term.t.Fatalf("it ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			term.t.Fatalf("it does not show what it should within %v", limit)
		}
	}
}

// interrupt types Ctrl-C and wants the program to end well, and with it all
// processes and the network that it started.
func (term *terminal) interrupt() {
	t := term.t
	t.Helper()
	started := descendants(t, term.pid)
	if len(started) == 0 {
		t.Error("it has started nothing")
	}
	io.WriteString(term.keys, "\x03")
	select {
	case err := <-term.ended:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Ctrl-C does not end it")
	}
	for pid, what := range started {
		if now, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(now) == what {
			t.Errorf("process %d runs on: %q", pid, what)
		}
	}
	out, err := exec.Command("ip", "netns", "list").CombinedOutput()
	if err != nil || strings.Contains(string(out), fmt.Sprintf("culvert-%d-", term.pid)) {
		t.Errorf("its network is still there (%v):\n%s", err, out)
	}
}

// descendants are the command lines of all processes below pid.
func descendants(t *testing.T, pid int) map[int]string {
	t.Helper()
	found := map[int]string{}
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	for _, e := range all {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat") // it may have ended
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parents[p], _ = strconv.Atoi(f[1])
		}
	}
	for p := range parents {
		for up := parents[p]; up > 1; up = parents[up] {
			if up == pid {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
				found[p] = string(cmdline)
				break
			}
		}
	}
	return found
}

// upIn finds a frame of the watch that shows three devices' native IPsec and
// two devices' PPTP, up, or up and still learning whose an SPI is.
func upIn(shown string) []string {
	frames := strings.Split(shown, "\x1b[H")
	frame := frames[len(frames)-1]
	devices := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+) +\S+ +(ipsec esp|pptp data) +(?:up|learning) `).FindAllStringSubmatch(strings.ReplaceAll(frame, "\x1b[K", ""), -1) {
		devices[m[2]+" "+m[1]] = true
	}
	for _, want := range []string{"ipsec esp laptop", "ipsec esp phone", "ipsec esp tablet", "pptp data desktop", "pptp data scanner"} {
		if !devices[want] {
			return nil
		}
	}
	return []string{frame}
}

// TestDemo: make demo's program shows five tunnels, and Ctrl-C ends it and what
// it started, while it boots and while it shows them.
func TestDemo(t *testing.T) {
	t.Parallel()
	program := lab.Program(t, "cmd/demo")
	booting := onTerminal(t, program)
	booting.until(2*time.Minute, regexp.MustCompile("Booting the router").FindStringSubmatch)
	booting.interrupt()
	showing := onTerminal(t, program)
	frame := showing.until(5*time.Minute, upIn)[0]
	t.Logf("the last frame:\n%s", frame)
	showing.interrupt()
}
