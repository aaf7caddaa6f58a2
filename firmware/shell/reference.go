package shell

import (
	"fmt"
	"strings"
)

// Reference is the manual of all commands as Markdown, made from the tree.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Shell reference

The same shell answers on the serial line and over SSH; ` + "`ssh admin@192.168.1.1 COMMAND`" + ` runs one line of commands
and ends with status 0, or 1 when a command failed.

- Tab completes, ` + "`?`" + ` shows what may come next without being entered, the arrow keys recall earlier lines, Ctrl-C ends a command,
  Ctrl-D on an empty line leaves.
- ` + "`;`" + ` separates commands on a line; the first that fails ends it. ` + "`#`" + ` begins a comment.
- Names of commands and settings may be shortened while they stay unambiguous: ` + "`sh pass`" + ` is ` + "`show passthrough`" + `.
- Quotes keep blanks in a word: ` + "`commit message \"why it was done\"`" + `.
- ` + "`--json`" + ` prints the answer for programs; durations are in nanoseconds there, sizes in bytes.
- ` + "`set`" + ` and ` + "`delete`" + ` change a candidate of this session; nothing happens before ` + "`commit`" + `.
  A ` + "`*`" + ` in the prompt means that the candidate has changes.
- Without a terminal nothing is asked: ` + "`reboot`, `poweroff` and `factory-reset`" + ` want the word ` + "`now`" + ` then, and
  a session that ends with changes that are not committed fails.

## Who gets in

| the router has | serial line | SSH |
|---|---|---|
| no owner | offers to set a password or a key | the same, from the LAN and for 30 minutes after power-on |
| a password | asks for the password | the password |
| keys only | **open**: no login | the keys |
| a password and keys | asks for the password | the password or a key |

With SSH keys only the serial line has nothing to ask for: whoever holds the cable is the admin. The line says so at each visit,
and ` + "`show status`" + ` has a line ` + "`Serial`" + ` while it lasts. To close it, type ` + "`password`" + `, there or over SSH; the password then also
logs in over SSH, where wrong guesses are slowed.

## Commands

| command | what it does |
|---|---|
`)
	walk(Root(), nil, func(path string, c *Command) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(usage(path, c), "|", "\\|"), strings.ReplaceAll(c.Help, "|", "\\|"))
	})
	b.WriteString("\n")
	walk(Root(), nil, func(path string, c *Command) {
		if c.Doc != "" {
			fmt.Fprintf(&b, "**%s**: %s\n\n", path, c.Doc)
		}
	})
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// walk visits the commands that can be run, in the tree's order.
func walk(at *Command, path []string, visit func(path string, c *Command)) {
	for _, c := range at.Sub {
		p := append(path[:len(path):len(path)], c.Name)
		if c.run != nil {
			visit(strings.Join(p, " "), c)
		}
		walk(c, p, visit)
	}
}
