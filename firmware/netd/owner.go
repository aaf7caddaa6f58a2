package netd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// claimWindow is how long after power-on an unclaimed router may get its owner
// over SSH.
const claimWindow = 30 * time.Minute

// claimed tells whether the router has an owner.
func claimed(s *settings.Settings) bool {
	return s.System.Admin.Password != "" || len(s.System.Admin.Keys) > 0
}

// claim is api.MethodClaim: the first owner, and only the first.
func (d *daemon) claim(ctx context.Context, _ api.Peer, p api.ClaimParams) (*api.Claim, error) {
	c := &api.Claim{Time: time.Now(), Author: d.named(p.Author)}
	var key string
	switch {
	case p.Password != "" && p.Key != "" || p.Password == "" && p.Key == "":
		return nil, &api.Error{Code: "invalid", Text: "Give either a password or an SSH public key."}
	case p.Password != "":
		c.With = "password"
	default:
		line, fingerprint, err := parseKey(p.Key)
		if err != nil {
			return nil, err
		}
		key, c.With = line, "key "+fingerprint
	}
	err := d.edit(ctx, p.Author, "claimed with a "+strings.Fields(c.With)[0], func(s *settings.Settings) error {
		if claimed(s) {
			return &api.Error{Code: "denied", Text: "This router has an owner already. Log in as admin."}
		}
		s.System.Admin.Password = settings.Secret(p.Password)
		if key != "" {
			s.System.Admin.Keys = []string{key}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, d.keepClaim(c)
}

func (d *daemon) keepClaim(c *api.Claim) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return d.kept.Put(keyClaim, b)
}

// claimRecord tells who claimed the router, nil when nobody did.
func (d *daemon) claimRecord() *api.Claim {
	b, err := d.kept.Get(keyClaim)
	if err != nil || b == nil {
		return nil
	}
	c := new(api.Claim)
	if json.Unmarshal(b, c) != nil {
		return nil
	}
	return c
}

// parseKey reads an authorized_keys line and returns it without options.
func parseKey(line string) (clean, fingerprint string, err error) {
	key, comment, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(strings.TrimSpace(string(rest))) > 0 {
		return "", "", &api.Error{Code: "invalid", Text: `Not an SSH public key. Paste one line such as "ssh-ed25519 AAAA... name".`}
	}
	clean = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		clean += " " + comment
	}
	return clean, ssh.FingerprintSHA256(key), nil
}

// edit changes who may log in, as a revision of its own.
func (d *daemon) edit(ctx context.Context, author api.Author, message string, f func(*settings.Settings) error) error {
	_, _, err := d.commits.Edit(ctx, f, d.meta(d.named(author), message))
	if err != nil {
		return d.commitError(err, 0)
	}
	d.publish()
	return nil
}

// setPassword is api.MethodPassword.
func (d *daemon) setPassword(ctx context.Context, _ api.Peer, p api.PasswordParams) (struct{}, error) {
	return struct{}{}, d.edit(ctx, p.Author, "password changed", func(s *settings.Settings) error {
		if !strings.HasPrefix(p.Hash, "$argon2id$") {
			return &api.Error{Code: "invalid", Text: "Not an argon2id hash; set the password with the command: password"}
		}
		s.System.Admin.Password = settings.Secret(p.Hash)
		return nil
	})
}

// addKey is api.MethodAddKey.
func (d *daemon) addKey(ctx context.Context, _ api.Peer, p api.KeyParams) (struct{}, error) {
	line, fingerprint, err := parseKey(p.Key)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, d.edit(ctx, p.Author, "key "+fingerprint+" added", func(s *settings.Settings) error {
		for _, k := range s.System.Admin.Keys {
			if _, have, _ := parseKey(k); have == fingerprint {
				return &api.Error{Code: "failed", Text: "The key " + fingerprint + " may log in already."}
			}
		}
		s.System.Admin.Keys = append(slices.Clone(s.System.Admin.Keys), line)
		return nil
	})
}

// removeKey is api.MethodRemoveKey; the last way to log in stays.
func (d *daemon) removeKey(ctx context.Context, _ api.Peer, p api.KeyParams) (struct{}, error) {
	want := strings.TrimSpace(p.Key)
	if _, fingerprint, err := parseKey(want); err == nil {
		want = fingerprint
	}
	return struct{}{}, d.edit(ctx, p.Author, "key "+want+" removed", func(s *settings.Settings) error {
		var keep []string
		for _, k := range s.System.Admin.Keys {
			if _, have, _ := parseKey(k); have != want {
				keep = append(keep, k)
			}
		}
		if len(keep) == len(s.System.Admin.Keys) {
			return &api.Error{Code: "invalid", Text: fmt.Sprintf("No key %q may log in. See: key list", want)}
		}
		if len(keep) == 0 && s.System.Admin.Password == "" {
			return &api.Error{Code: "denied", Text: "This is the only way to log in. Set a password first: password"}
		}
		s.System.Admin.Keys = keep
		return nil
	})
}

// login is api.MethodLoginNote: what a person is told who has just logged in.
func (d *daemon) login(_ context.Context, _ api.Peer, a api.Author) (*api.LoginNotes, error) {
	a = d.named(a)
	d.log.Info("login", "via", a.Via, "addr", a.Addr, "mac", a.MAC, "key", a.Key)
	n := &api.LoginNotes{Claim: d.claimRecord(), Problems: d.problems()}
	if s := d.commits.State(); s.Pending() {
		n.Pending = d.reply(s, false, nil)
	}
	return n, nil
}
