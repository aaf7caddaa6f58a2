package shell

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
)

func runReboot(ctx context.Context, s *Shell, a args) error {
	return s.drastic(ctx, a, api.MethodReboot, "Restart the router now?", "The router restarts.")
}

func runPoweroff(ctx context.Context, s *Shell, a args) error {
	return s.drastic(ctx, a, api.MethodPoweroff, "Turn the router off now?", "The router turns off.")
}

func runReset(ctx context.Context, s *Shell, a args) error {
	return s.drastic(ctx, a, api.MethodReset, "Forget all settings, keys and the password, and restart?",
		"The router forgets everything and restarts. It will be at 192.168.1.1 without an owner.")
}

func (s *Shell) drastic(ctx context.Context, a args, method, question, done string) error {
	if s.cand.changed() {
		fmt.Fprintln(s.c, "Your changes that are not committed will be lost.")
	}
	if err := s.sure(a, question); err != nil {
		return err
	}
	if err := s.o.API.Call(ctx, method, s.o.Author, nil); err != nil {
		return err
	}
	fmt.Fprintln(s.c, done)
	return nil
}

func runPassword(ctx context.Context, s *Shell, _ args) error {
	hash, err := s.newPassword("New password (12 characters or more): ")
	if err != nil {
		return err
	}
	if err := s.o.API.Call(ctx, api.MethodPassword, api.PasswordParams{Hash: hash, Author: s.o.Author}, nil); err != nil {
		return err
	}
	fmt.Fprintln(s.c, "The password is changed.")
	return nil
}

func runRestart(ctx context.Context, s *Shell, a args) error {
	if len(a.words) != 1 {
		return a.usageError()
	}
	err := s.o.API.Call(ctx, api.MethodRestart, api.RestartParams{Service: a.words[0], Author: s.o.Author}, nil)
	if err != nil && !(a.words[0] == "netd" && errors.Is(err, api.ErrAway)) { // its end is the answer
		return err
	}
	fmt.Fprintf(s.c, "%s restarts.\n", a.words[0])
	return nil
}

// newPassword asks for a password, twice of a person, and returns its hash.
func (s *Shell) newPassword(prompt string) (string, error) {
	p, err := s.ask(prompt, true)
	if err != nil {
		return "", err
	}
	hash, err := s.o.Hash(p)
	if err != nil {
		return "", err
	}
	if s.oneShot {
		return hash, nil
	}
	again, err := s.ask("Once more: ", true)
	if err != nil {
		return "", err
	}
	if again != p {
		return "", say("The two differ; nothing was changed.")
	}
	return hash, nil
}

// keyEntry is a key for `key list --json`.
type keyEntry struct {
	N           int    `json:"n"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	Comment     string `json:"comment,omitempty"`
}

func (s *Shell) keys(ctx context.Context) ([]keyEntry, error) {
	_, t, err := s.fetch(ctx, 0)
	if err != nil {
		return nil, err
	}
	ks := []keyEntry{}
	for i, line := range t.System.Admin.Keys {
		e := keyEntry{N: i + 1, Type: "damaged"}
		if k, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil {
			e.Type, e.Fingerprint, e.Comment = k.Type(), ssh.FingerprintSHA256(k), comment
		}
		ks = append(ks, e)
	}
	return ks, nil
}

func runKeyList(ctx context.Context, s *Shell, a args) error {
	ks, err := s.keys(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return s.printJSON(ks)
	}
	if len(ks) == 0 {
		fmt.Fprintln(s.c, "No keys. Add one with: key add")
		return nil
	}
	t := newTable(">N", "TYPE", "FINGERPRINT", "COMMENT")
	for _, k := range ks {
		t.add(strconv.Itoa(k.N), k.Type, k.Fingerprint, k.Comment)
	}
	t.write(s.c, s.width())
	return nil
}

func runKeyAdd(ctx context.Context, s *Shell, a args) error {
	line := strings.Join(a.words, " ")
	if line == "" {
		var err error
		if line, err = s.ask("Paste the public key (a line of id_ed25519.pub): ", false); err != nil {
			return err
		}
	}
	line, print, err := publicKey(line)
	if err != nil {
		return err
	}
	if err := s.o.API.Call(ctx, api.MethodAddKey, api.KeyParams{Key: line, Author: s.o.Author}, nil); err != nil {
		return err
	}
	fmt.Fprintf(s.c, "The key %s may log in.\n", print)
	return nil
}

// publicKey checks an authorized_keys line; it returns it tidied, without
// options, and its fingerprint.
func publicKey(line string) (tidy, fingerprint string, err error) {
	line = strings.TrimSpace(line)
	if strings.Contains(line, "PRIVATE KEY") {
		return "", "", say("This is a private key: keep it to yourself. Paste the public one, the line in the file that ends in .pub.")
	}
	k, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", "", say("This is not an SSH public key. It is one line and begins like: ssh-ed25519 AAAA")
	}
	if len(options) > 0 {
		return "", "", say("Key options are not supported; begin with the key type, e.g. ssh-ed25519.")
	}
	switch k.Type() {
	case "ssh-dss":
		return "", "", say("DSA keys are broken; make a new one with: ssh-keygen -t ed25519")
	}
	tidy = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)) + "")
	if comment != "" {
		tidy += " " + comment
	}
	return tidy, ssh.FingerprintSHA256(k), nil
}

func runKeyRemove(ctx context.Context, s *Shell, a args) error {
	if len(a.words) != 1 {
		return a.usageError()
	}
	ks, err := s.keys(ctx)
	if err != nil {
		return err
	}
	for _, k := range ks {
		if a.words[0] != strconv.Itoa(k.N) && a.words[0] != k.Fingerprint {
			continue
		}
		if err := s.o.API.Call(ctx, api.MethodRemoveKey, api.KeyParams{Key: k.Fingerprint, Author: s.o.Author}, nil); err != nil {
			return err
		}
		fmt.Fprintf(s.c, "The key %s may no longer log in.\n", k.Fingerprint)
		return nil
	}
	return say("There is no key %q. Type: key list", a.words[0])
}

func runToolbox(ctx context.Context, s *Shell, a args) error {
	if s.o.Toolbox == nil {
		return say("This router has no toolbox.")
	}
	tb := Toolbox{Command: strings.Join(a.words, " "), Stdout: s.o.Stdout, Stderr: s.o.Stderr}
	t := s.o.Terminal
	if t == nil {
		if tb.Command == "" {
			return say("The toolbox needs a terminal: ssh -t admin@192.168.1.1 toolbox, or give a command: toolbox ls /")
		}
		tb.Stdin = nil // a script's further lines are not the program's
		if st, ok := s.c.(*streams); ok && s.single {
			tb.Stdin = st.in
		}
		return s.o.Toolbox(ctx, tb)
	}
	tb.OnResize = t.onResize
	tb.Stdin, tb.Stdout, tb.Stderr = rawReader{t.in}, t.out, t.out
	t.in.setRaw(true)
	defer t.in.setRaw(false)
	if tb.Command == "" {
		fmt.Fprintln(s.c, "A system shell without rights. Leave it with: exit")
	}
	return s.o.Toolbox(ctx, tb)
}

// rawReader gives a program the keys as they come. Its Close ends its Read.
type rawReader struct{ in *Input }

func (r rawReader) Read(p []byte) (int, error) { return r.in.readRaw(p) }

func (r rawReader) Close() error { r.in.setRaw(false); return nil }
