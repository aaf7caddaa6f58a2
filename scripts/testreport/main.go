// Command testreport reads `go test -json` and shows what a person wants of it: a line a package,
// the output of failed tests, and every skipped test with the capability it lacked. In CI
// (CI=true) a skipped test is a failure: everything that a test needs can be had there, except
// what CULVERT_CI_LACKS names (words of skip messages, separated by commas).
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	ImportPath                    string
	Elapsed                       float64
}

type report struct {
	out     io.Writer
	lacks   []string
	strict  bool
	output  map[string][]string // package/test -> lines
	skipped map[string][]string // package -> "Test: reason"
	failed  map[string][]string // package -> tests
	passed  map[string]int
	bad     []string
	why     []string // what the failed tests said, shortened
}

func main() {
	logName := flag.String("log", "", "file for the full output")
	flag.Parse()
	log, err := os.Create(*logName)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	r := &report{out: os.Stdout, strict: os.Getenv("CI") == "true",
		output: map[string][]string{}, skipped: map[string][]string{}, failed: map[string][]string{}, passed: map[string]int{}}
	for _, w := range strings.Split(os.Getenv("CULVERT_CI_LACKS"), ",") {
		if w = strings.TrimSpace(w); w != "" {
			r.lacks = append(r.lacks, w)
		}
	}
	if err := r.read(os.Stdin, log); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if err := log.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if len(r.bad) > 0 {
		// Again at the end, where logs that are cut still have it.
		fmt.Fprintf(r.out, "%sFAILED: %s\nfull output: %s\n", strings.Join(r.why, ""), strings.Join(r.bad, ", "), *logName)
		os.Exit(1)
	}
}

func (r *report) read(in io.Reader, log io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(r.out, "%s", line)
				fmt.Fprintf(log, "%s", line)
			} else {
				io.WriteString(log, e.Output)
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	id := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.output[id] = append(r.output[id], e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test != "" {
			r.test(e, id)
		} else {
			r.pkg(e, id)
		}
	}
}

func (r *report) test(e event, id string) {
	switch e.Action {
	case "pass":
		r.passed[e.Package]++
	case "fail":
		r.failed[e.Package] = append(r.failed[e.Package], e.Test)
		fmt.Fprintf(r.out, "%s", strings.Join(r.output[id], ""))
		r.why = append(r.why, said(e.Test, r.output[id])...)
	case "skip":
		r.skipped[e.Package] = append(r.skipped[e.Package], e.Test+": "+reason(r.output[id]))
	}
	delete(r.output, id)
}

// A failed test's messages ("file_test.go:12: text"), and how much of them is repeated.
var message = regexp.MustCompile(`^\s+\w+\.go:\d+: `)

const (
	mostMessages = 6
	mostLines    = 4 // of each
)

// said is what a failed test has to say, without the consoles that follow.
func said(test string, lines []string) (out []string) {
	messages, more := 0, 0
	for _, l := range lines {
		switch {
		case strings.Contains(l, "console of the"):
			return out
		case message.MatchString(l):
			if messages++; messages > mostMessages {
				return out
			}
			more = mostLines
		}
		if more > 0 {
			more--
			if len(out) == 0 {
				out = append(out, "\n"+test+":\n")
			}
			out = append(out, l)
		}
	}
	return out
}

// reason is what the test said when it skipped.
func reason(lines []string) string {
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "===") || strings.HasPrefix(l, "---") {
			continue
		}
		// "file_test.go:12: text"
		if at := strings.Index(l, ".go:"); at >= 0 {
			if _, text, ok := strings.Cut(l[at+4:], ": "); ok {
				return text
			}
		}
		return l
	}
	return "no reason given"
}

func (r *report) pkg(e event, id string) {
	name := e.Package[strings.LastIndex(e.Package, "culvert/")+1:]
	name = strings.TrimPrefix(name, "ulvert/")
	skips := r.skipped[e.Package]
	switch {
	case e.Action == "fail":
		if len(r.failed[e.Package]) == 0 {
			fmt.Fprintf(r.out, "%s", strings.Join(r.output[id], ""))
		}
		fmt.Fprintf(r.out, "FAIL  %s  %.1f s\n", name, e.Elapsed)
		r.bad = append(r.bad, name)
	case r.passed[e.Package] > 0 || len(skips) > 0:
		fmt.Fprintf(r.out, "ok    %s  %.1f s, %d passed\n", name, e.Elapsed, r.passed[e.Package])
	}
	for _, s := range skips {
		fmt.Fprintf(r.out, "      skipped %s\n", s)
		if r.strict && !r.allowed(s) {
			r.bad = append(r.bad, name+" (a test was skipped)")
		}
	}
	delete(r.output, id)
}

func (r *report) allowed(skip string) bool {
	for _, w := range r.lacks {
		if strings.Contains(skip, w) {
			return true
		}
	}
	return false
}
