package control

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/culvert-fw/culvert/firmware/shell"
)

// Command runs one command of the shell as `ssh router COMMAND` does; the
// shell's side is Cost.Self.
func (r *Router) Command(ctx context.Context, line string) (Cost, error) {
	var out, errs bytes.Buffer
	c, err := r.Measure(func() error {
		sh := shell.New(shell.Options{API: r.API, Author: author, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
		if status := sh.Exec(ctx, line); status != 0 {
			return fmt.Errorf("%s: status %d: %s", line, status, errs.String())
		}
		return nil
	})
	if err == nil && out.Len() == 0 {
		err = fmt.Errorf("%s: no answer", line)
	}
	return c, err
}
