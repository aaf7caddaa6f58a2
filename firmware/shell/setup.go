package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func setupCommand() *Command {
	return &Command{Name: "setup", Help: "change settings by answering questions", Sub: []*Command{
		{Name: "passthrough", Help: "let a VPN protocol through, for whom and whereto, or refuse it", run: runSetupPassthrough,
			Doc: "Asks for the protocol, the servers and the devices in turn and shows what may be typed; Enter keeps what is set now. Each answer is checked at once. At the end it shows the changes and commits them after a yes; everything else leaves the settings and your candidate as they were."},
	}}
}

// setup asks for settings; the candidate itself is never changed.
type setup struct {
	s      *Shell
	next   *settings.Settings
	before settings.Problems // of the candidate, not of the answers
}

// question is a setting to ask for.
type question struct {
	node *settings.Node
	path []string // as typed after set; of a switch, what it switches
	self bool     // it is a switch
}

func runSetupPassthrough(ctx context.Context, s *Shell, _ args) error {
	if s.oneShot {
		return say("Nobody is there to ask. With a terminal: ssh -t admin@192.168.1.1 setup passthrough; in a script: set passthrough ...; commit")
	}
	c, err := s.candidate(ctx)
	if err != nil {
		return err
	}
	u := &setup{s: s, next: c.next, before: c.next.ValidateRedacted()}
	fmt.Fprintln(s.c, "Enter keeps what stands in brackets. Ctrl-C leaves; nothing is changed before you say yes at the end.")
	name, err := u.protocol()
	if err == nil {
		err = u.protocolSettings(ctx, []string{"passthrough", name})
	}
	if err != nil {
		return s.unanswered(err)
	}
	if len(settings.Compare(c.next, u.next)) == 0 {
		fmt.Fprintln(s.c, "\nAll of this is set already; nothing changes.")
		return nil
	}
	if c.changed() {
		fmt.Fprintln(s.c, "\nThis changes, your changes of before among it:")
	} else {
		fmt.Fprintln(s.c, "\nThis changes:")
	}
	for _, l := range settings.Compare(c.base, u.next) {
		fmt.Fprintln(s.c, l)
	}
	answer, err := s.ask("Commit it? [y/N] ", false)
	if err != nil {
		return s.unanswered(err)
	}
	if !yes(answer) {
		return say("Nothing was changed.")
	}
	s.cand = &candidate{revision: c.revision, base: c.base, next: u.next}
	return s.commit(ctx, "", 0)
}

// unanswered is what Ctrl-C and Ctrl-D at a question come to.
func (s *Shell) unanswered(err error) error {
	if errors.Is(err, io.EOF) {
		fmt.Fprintln(s.c)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, errInterrupted) {
		return say("Nothing was changed.")
	}
	return err
}

// protocol asks for one of those that have a switch.
func (u *setup) protocol() (string, error) {
	area, _, err := settings.Lookup([]string{"passthrough"})
	if err != nil {
		return "", err
	}
	var cs []settings.Candidate
	for _, p := range area.Children {
		if p.Self == nil {
			continue
		}
		now, err := settings.Text(u.next, []string{"passthrough", p.Name})
		if err != nil {
			return "", err
		}
		cs = append(cs, settings.Candidate{Word: p.Name, Help: fmt.Sprintf("%s (%s)", p.Help, now)})
	}
	fmt.Fprintf(u.s.c, "\nWhich VPN protocol?\n%s", u.s.choices(cs))
	for {
		line, err := u.ask("protocol: ", cs)
		if err != nil {
			return "", err
		}
		word := strings.ToLower(strings.TrimSpace(line))
		switch hits := wordsOf(fitting(cs, word)); {
		case slices.Contains(hits, word):
			return word, nil
		case word != "" && len(hits) == 1:
			return hits[0], nil
		}
		fmt.Fprintf(u.s.c, "passthrough: no such protocol (got %q; allowed: %s)\n", word, strings.Join(wordsOf(cs), ", "))
	}
}

// protocolSettings asks for what a protocol has: its switch, and when that is
// on, whereto and for whom, and the rest.
func (u *setup) protocolSettings(ctx context.Context, path []string) error {
	area, _, err := settings.Lookup(path)
	if err != nil {
		return err
	}
	first := []question{{node: area.Self, path: path, self: true}}
	var rest []question
	for _, n := range area.Children {
		q := question{node: n, path: append(slices.Clip(path), n.Name)}
		switch {
		case n.Kind != settings.Leaf && n.Kind != settings.List:
			fmt.Fprintf(u.s.c, "%s is not asked for here: set %s ?\n", n.Name, strings.Join(q.path, " "))
		case n.Rare:
		case n.Name == "servers":
			first = append(first, q)
		default:
			rest = append(rest, q)
		}
	}
	all := append(first, rest...)
	for again := false; ; again = true {
		for i, q := range all {
			if now, err := settings.Text(u.next, path); err != nil {
				return err
			} else if i > 0 && now == "off" && !again {
				break // only when there is more to say
			}
			if err := u.put(ctx, q); err != nil {
				return err
			}
		}
		ps := u.problems(u.next, func(settings.Problem) bool { return true })
		if len(ps) == 0 {
			return nil
		}
		fmt.Fprintf(u.s.c, "\n%v\nOnce more, then.\n", ps)
	}
}

// put asks one question until the answer is right.
func (u *setup) put(ctx context.Context, q question) error {
	name := strings.Join(q.path, " ")
	now, err := settings.Text(u.next, q.path)
	if err != nil {
		return err
	}
	cs := u.candidates(ctx, q)
	fmt.Fprintf(u.s.c, "\n%s: %s\n%s", name, q.node.Help, u.s.choices(cs))
	prompt := fmt.Sprintf("%s [%s]: ", q.path[len(q.path)-1], now)
	for {
		line, err := u.ask(prompt, cs)
		if err != nil {
			return err
		}
		words, err := settings.Split(line)
		if err == nil && len(words) == 0 {
			return nil
		}
		if err == nil {
			err = u.set(q, words)
		}
		if err == nil {
			return nil
		}
		fmt.Fprintln(u.s.c, err)
	}
}

// set takes an answer over when the schema does.
func (u *setup) set(q question, words []string) error {
	name := strings.Join(q.path, " ")
	if q.node.Kind == settings.Leaf && len(words) > 1 {
		return settings.Problem{Path: name, Value: strings.Join(words, " "), Text: "more than one word", Allowed: q.node.Allowed}
	}
	full := fullPath(append(slices.Clip(q.path), words...))
	if w := full[len(full)-1]; q.self && !slices.Contains(q.node.Enum, w) {
		return settings.Problem{Path: name, Value: w, Text: "neither on nor off", Allowed: q.node.Allowed}
	}
	next := u.next.Clone()
	if err := settings.Set(next, full); err != nil {
		return err
	}
	// What is wrong elsewhere may be what a later answer puts right.
	if ps := u.problems(next, func(p settings.Problem) bool { return p.Path == name && !q.self }); len(ps) > 0 {
		return ps
	}
	u.next = next
	return nil
}

// problems are those of a tree that the candidate did not have.
func (u *setup) problems(of *settings.Settings, which func(settings.Problem) bool) settings.Problems {
	return slices.DeleteFunc(of.ValidateRedacted(), func(p settings.Problem) bool {
		return slices.Contains(u.before, p) || !which(p)
	})
}

// candidates are what may be answered; of devices also those that are there.
func (u *setup) candidates(ctx context.Context, q question) []settings.Candidate {
	var cs []settings.Candidate
	known := map[string]bool{}
	for _, c := range settings.Complete(u.next, append(slices.Clip(q.path), "")) {
		if q.self && !slices.Contains(q.node.Enum, c.Word) {
			continue // what may follow the path instead of on or off
		}
		if placeholder(c.Word) {
			c.Help = q.node.Allowed
		}
		known[c.Word], known[c.Help] = true, true
		cs = append(cs, c)
	}
	if q.node.Type != "device" {
		return cs
	}
	var leases []api.Lease
	if err := u.s.o.API.Call(ctx, api.MethodLeases, nil, &leases); err != nil {
		return cs // an address can be typed all the same
	}
	for _, l := range leases {
		if a := addr(l.Addr); !known[a] && !known[l.Name] {
			cs = append(cs, settings.Candidate{Word: a, Help: orElse(l.Name, l.MAC)})
		}
	}
	return cs
}

// ask reads an answer; Tab and ? tell the candidates.
func (u *setup) ask(prompt string, cs []settings.Candidate) (string, error) {
	return u.s.askHelped(prompt, false, func(line string, pos int, key rune) (string, int, bool) {
		left := line[:pos]
		partial := left[strings.LastIndexByte(left, ' ')+1:]
		switch key {
		case '\t':
			return u.s.tab(prompt, line, pos, partial, fitting(cs, partial))
		case '?':
			u.s.explain(prompt, line, fitting(cs, partial), nil)
			return line, pos, true
		}
		return "", 0, false
	})
}
