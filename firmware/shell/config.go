package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func runSet(ctx context.Context, s *Shell, a args) error {
	if len(a.words) == 0 {
		return a.usageError()
	}
	c, err := s.candidate(ctx)
	if err != nil {
		return err
	}
	return settings.Set(c.next, fullPath(a.words))
}

func runDelete(ctx context.Context, s *Shell, a args) error {
	if len(a.words) == 0 {
		return a.usageError()
	}
	c, err := s.candidate(ctx)
	if err != nil {
		return err
	}
	return settings.Delete(c.next, fullPath(a.words))
}

func runCompare(ctx context.Context, s *Shell, a args) error {
	var from, to *settings.Settings
	switch len(a.words) {
	case 0:
		if !s.cand.changed() {
			fmt.Fprintln(s.c, "No changes.")
			return nil
		}
		from, to = s.cand.base, s.cand.next
	case 1, 2:
		n, err := revision(a, 0)
		if err != nil {
			return err
		}
		if _, from, err = s.fetch(ctx, n); err != nil {
			return err
		}
		m := 0
		if len(a.words) == 2 {
			if m, err = revision(a, 1); err != nil {
				return err
			}
		}
		if _, to, err = s.fetch(ctx, m); err != nil {
			return err
		}
	default:
		return a.usageError()
	}
	lines := settings.Compare(from, to)
	for _, l := range lines {
		fmt.Fprintln(s.c, l)
	}
	if len(lines) == 0 {
		fmt.Fprintln(s.c, "No changes.")
	}
	return nil
}

func revision(a args, i int) (int, error) {
	n, err := strconv.Atoi(a.words[i])
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a revision. Type history for their numbers", a.words[i])
	}
	return n, nil
}

// defaultConfirm is how long `commit confirm` waits when no time is given.
const defaultConfirm = 2 * time.Minute

// commitWords reads [message TEXT] [confirm [TIME]].
func commitWords(a args) (message string, confirm time.Duration, err error) {
	w := a.words
	for len(w) > 0 {
		switch {
		case strings.HasPrefix("confirm", w[0]) && confirm == 0:
			confirm, w = defaultConfirm, w[1:]
			if len(w) > 0 && w[0] != "message" {
				confirm, err = time.ParseDuration(w[0])
				if n, nerr := strconv.Atoi(w[0]); nerr == nil { // a bare number is minutes
					confirm, err = time.Duration(n)*time.Minute, nil
				}
				if err != nil || confirm < 10*time.Second || confirm > 24*time.Hour {
					return "", 0, fmt.Errorf("%q is not a time to wait for confirm (allowed: 10s to 24h, e.g. commit confirm 2m)", w[0])
				}
				w = w[1:]
			}
		case strings.HasPrefix("message", w[0]) && message == "" && len(w) > 1:
			end := 2
			for end < len(w) && w[end] != "confirm" {
				end++
			}
			message, w = strings.Join(w[1:end], " "), w[end:]
		default:
			return "", 0, a.usageError()
		}
	}
	return message, confirm, nil
}

func completeCommit(_ context.Context, _ *Shell, words []string) []settings.Candidate {
	if len(words) > 1 && words[len(words)-2] == "confirm" {
		return []settings.Candidate{{Word: "2m", Help: "time to wait for confirm, 10s to 24h"}}
	}
	return []settings.Candidate{
		{Word: "confirm", Help: "go back unless confirmed in time"},
		{Word: "message", Help: "say why, for the history"},
	}
}

func runCommit(ctx context.Context, s *Shell, a args) error {
	message, confirm, err := commitWords(a)
	if err != nil {
		return err
	}
	if !s.cand.changed() {
		fmt.Fprintln(s.c, "No changes to commit.")
		return nil
	}
	return s.commit(ctx, message, confirm)
}

// commit makes the candidate the running settings.
func (s *Shell) commit(ctx context.Context, message string, confirm time.Duration) error {
	if ps := s.cand.next.ValidateRedacted(); len(ps) > 0 {
		return ps
	}
	p := api.CommitParams{Base: s.cand.revision, Patch: s.cand.next.Patch(s.cand.base), Message: message, Author: s.o.Author, Confirm: confirm}
	preview := p
	preview.Preview = true
	said, err := s.forewarn(ctx, api.MethodCommit, preview)
	var r api.CommitReply
	if err == nil {
		err = s.o.API.Call(ctx, api.MethodCommit, p, &r)
	}
	var ae *api.Error
	if errors.As(err, &ae) && ae.Code == "conflict" {
		return s.conflict(ae)
	}
	if err != nil {
		return err
	}
	s.committed(r, said)
	return nil
}

// forewarn shows what a commit is going to tell, before it can cut the very
// session that waits for its answer.
func (s *Shell) forewarn(ctx context.Context, method string, preview any) ([]string, error) {
	if s.o.Author.Conn == nil {
		return nil, nil
	}
	var r api.CommitReply
	if err := s.o.API.Call(ctx, method, preview, &r); err != nil {
		return nil, err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(s.c, n)
	}
	return r.Notes, nil
}

// conflict tells what somebody else committed meanwhile.
func (s *Shell) conflict(e *api.Error) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Not committed: %s changed the settings after you began", orSomebody(e.By))
	if len(e.Changed) > 0 {
		b.WriteString(":\n  " + strings.Join(e.Changed, "\n  "))
	}
	b.WriteString("\nType refresh to put your changes on top of theirs, or discard to drop yours.")
	return errors.New(b.String())
}

func orSomebody(by string) string {
	if by == "" {
		return "another admin"
	}
	return by
}

// committed shows what a commit or rollback led to but for what was said
// before, and starts anew.
func (s *Shell) committed(r api.CommitReply, said []string) {
	s.cand = nil
	s.confirmBy = time.Time{}
	switch {
	case r.Unchanged:
		fmt.Fprintf(s.c, "Nothing changed; revision %d runs.\n", r.Revision)
	case r.ConfirmIn > 0:
		s.confirmBy = s.o.Now().Add(r.ConfirmIn)
		fmt.Fprintf(s.c, "Revision %d runs. It goes back in %s unless you type: confirm\n", r.Revision, age(r.ConfirmIn))
	default:
		fmt.Fprintf(s.c, "Revision %d runs.\n", r.Revision)
	}
	for _, n := range r.Notes {
		if !slices.Contains(said, n) {
			fmt.Fprintln(s.c, n)
		}
	}
}

func runConfirm(ctx context.Context, s *Shell, _ args) error {
	var r api.CommitReply
	if err := s.o.API.Call(ctx, api.MethodConfirm, s.o.Author, &r); err != nil {
		return err
	}
	s.confirmBy = time.Time{}
	s.cand = s.cand.ifChanged()
	if r.Unchanged {
		fmt.Fprintln(s.c, "Nothing waits to be confirmed.")
	} else {
		fmt.Fprintf(s.c, "Revision %d is confirmed.\n", r.Revision)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(s.c, n)
	}
	return nil
}

func runRefresh(ctx context.Context, s *Shell, _ args) error {
	if !s.cand.changed() {
		s.cand = nil
		fmt.Fprintln(s.c, "You have no changes; set starts from the running settings.")
		return nil
	}
	n, t, err := s.fetch(ctx, 0)
	if err != nil {
		return err
	}
	clashes, err := s.cand.rebase(n, t)
	if err != nil {
		return err
	}
	if len(clashes) > 0 {
		return say("Revision %d and you changed the same settings: %s. See them with show settings, then discard and set yours again",
			n, strings.Join(clashes, ", "))
	}
	fmt.Fprintf(s.c, "Your changes now stand on revision %d. Type compare to look, commit to commit.\n", n)
	return nil
}

func runDiscard(_ context.Context, s *Shell, _ args) error {
	if s.cand.changed() {
		fmt.Fprintln(s.c, "Changes dropped.")
	} else {
		fmt.Fprintln(s.c, "No changes.")
	}
	s.cand = nil
	return nil
}

func runRollback(ctx context.Context, s *Shell, a args) error {
	if len(a.words) != 1 {
		return a.usageError()
	}
	n, err := revision(a, 0)
	if err != nil {
		return err
	}
	if s.cand.changed() {
		return say("You have changes that are not committed: commit or discard them first.")
	}
	said, err := s.forewarn(ctx, api.MethodRollback, api.RollbackParams{N: n, Author: s.o.Author, Preview: true})
	if err != nil {
		return err
	}
	var r api.CommitReply
	if err := s.o.API.Call(ctx, api.MethodRollback, api.RollbackParams{N: n, Author: s.o.Author}, &r); err != nil {
		return err
	}
	s.committed(r, said)
	return nil
}

func runHistory(ctx context.Context, s *Shell, a args) error {
	if len(a.words) > 1 {
		return a.usageError()
	}
	rs, done, err := get[[]api.Revision](ctx, s, a, api.MethodHistory, nil)
	if done {
		return err
	}
	if len(a.words) == 1 {
		n, err := revision(a, 0)
		if err != nil {
			return err
		}
		for _, r := range rs {
			if r.N == n {
				fmt.Fprintf(s.c, "Revision %d, %s, %s, by %s\n", r.N, r.State, clock(r.Time), who(r.Author))
				for _, text := range []string{r.Message, r.Note} {
					if text != "" {
						fmt.Fprintln(s.c, text)
					}
				}
				for _, l := range r.Lines {
					fmt.Fprintln(s.c, l)
				}
				return nil
			}
		}
		return say("There is no revision %d. Type history for the list", n)
	}
	t := newTable(">N", "TIME (UTC)", "STATE", "BY", "MESSAGE")
	for _, r := range rs {
		by := r.Author.Via
		if r.Author.Addr.IsValid() {
			by += " " + r.Author.Addr.String()
		}
		t.add(strconv.Itoa(r.N), clock(r.Time), r.State, dash(by), r.Message)
	}
	t.write(s.c, s.width())
	return nil
}

func runExport(ctx context.Context, s *Shell, _ args) error {
	_, t, err := s.fetch(ctx, 0)
	if err != nil {
		return err
	}
	_, err = s.c.Write(append(bytes.TrimRight(settings.Export(t, false), "\n"), '\n'))
	return err
}

func runImport(ctx context.Context, s *Shell, _ args) error {
	if s.o.Terminal != nil && !s.oneShot {
		fmt.Fprintln(s.c, "Paste the settings (JSON), then press Ctrl-D or type a single dot:")
	}
	raw, err := s.c.paste()
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return say("Nothing was given. In a script: ssh admin@192.168.1.1 'import; commit' <FILE")
	}
	t, ps := settings.Parse(raw)
	if len(ps) > 0 {
		return ps
	}
	c, err := s.candidate(ctx)
	if err != nil {
		return err
	}
	// Settings that name no credentials must not lock their importer out.
	if a := t.System.Admin; a.Password == "" && len(a.Keys) == 0 {
		t.System.Admin = c.base.Clone().System.Admin
		fmt.Fprintln(s.c, "They name neither a password nor keys: yours stay.")
	}
	c.next = t
	n := len(settings.Compare(c.base, c.next))
	if n == 0 {
		fmt.Fprintln(s.c, "These are the running settings already.")
		return nil
	}
	fmt.Fprintf(s.c, "Imported: %d lines differ from the running settings. Type compare to look, commit to commit.\n", n)
	return nil
}

// completeSet offers what may follow set, from the candidate or, before there
// is one, from the running settings.
func completeHelp(_ context.Context, s *Shell, words []string) []settings.Candidate {
	at := s.root
	for i, w := range words[:len(words)-1] {
		next, err := match(at, words[:i], w)
		if err != nil {
			return nil
		}
		at = next
	}
	return subCandidates(at)
}
