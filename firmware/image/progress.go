package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Progress tells a person which of how many steps runs and for how long, and keeps the full
// output of each in a log file that is named when the step fails.
type Progress struct {
	Out    io.Writer
	Live   bool   // Out is a terminal: rewrite the line every second
	LogDir string // one file a step
	Now    func() time.Time

	total, done int
}

// task is one step of a build. A nil run means that its result is in the cache.
type task struct {
	name string
	run  func(log io.Writer) error
}

// start announces how many steps there will be.
func (p *Progress) start(total int) { p.total, p.done = total, 0 }

// step runs one task and shows it.
func (p *Progress) step(t task) error {
	p.done++
	head := fmt.Sprintf("[%d/%d] %s", p.done, p.total, t.name)
	if t.run == nil {
		fmt.Fprintf(p.Out, "%s, ready\n", head)
		return nil
	}
	if err := os.MkdirAll(p.LogDir, 0o755); err != nil {
		return err
	}
	logName := filepath.Join(p.LogDir, strings.ReplaceAll(t.name, " ", "-")+".log")
	log, err := os.Create(logName)
	if err != nil {
		return err
	}
	defer log.Close()

	began := p.Now()
	result := make(chan error, 1)
	go func() { result <- t.run(log) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if !p.Live {
		fmt.Fprintf(p.Out, "%s …\n", head)
	}
	for {
		select {
		case <-tick.C:
			if p.Live {
				fmt.Fprintf(p.Out, "\r%s …, %s", head, clock(p.Now().Sub(began)))
			}
		case err := <-result:
			if p.Live {
				fmt.Fprint(p.Out, "\r\x1b[K")
			}
			if err != nil {
				return fmt.Errorf("%s failed: %w\n%s\nfull output: %s", t.name, err, lastLines(logName, 15), logName)
			}
			fmt.Fprintf(p.Out, "%s, %s\n", head, clock(p.Now().Sub(began)))
			return nil
		}
	}
}

func clock(d time.Duration) string {
	s := int(d.Round(time.Second) / time.Second)
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

func lastLines(name string, n int) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "  | " + strings.Join(lines, "\n  | ")
}

// command prepares a program whose output goes to the log, which also gets its command line.
func command(log io.Writer, dir string, env []string, name string, args ...string) *exec.Cmd {
	fmt.Fprintf(log, "+ %s %s\n", name, strings.Join(args, " "))
	if _, err := exec.LookPath(name); err != nil && !strings.Contains(name, "/") {
		// Debian keeps mke2fs where only root's PATH looks.
		if sbin := filepath.Join("/usr/sbin", name); isFile(sbin) {
			name = sbin
		}
	}
	c := exec.Command(name, args...)
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	c.Env = append(os.Environ(), env...)
	return c
}

func run(log io.Writer, dir string, env []string, name string, args ...string) error {
	if err := command(log, dir, env, name, args...).Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

func output(dir string, name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Dir = dir
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

func isFile(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().IsRegular()
}
