package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
)

// Greeting is what an unclaimed router says.
const Greeting = `This router has no owner yet. Set a password now (12 characters or more), or type "key" to paste an SSH public key. The Internet already works.`

// Claim asks for a password or a key until the router has an owner. It
// returns an error when the person leaves, or when the router got an owner
// otherwise meanwhile (an *api.Error).
func Claim(ctx context.Context, o Options) error {
	s := New(o)
	if t := o.Terminal; t != nil {
		t.onKey(nil)
		t.history.off = true
		defer func() { t.history.off = false }()
		s.oneShot = false
	}
	fmt.Fprintln(s.c, Greeting)
	for ctx.Err() == nil {
		p, err := s.claimParams()
		switch {
		case errors.Is(err, io.EOF):
			return err
		case errors.Is(err, errInterrupted):
			continue
		case err != nil:
			fmt.Fprintln(s.c, err)
			if s.oneShot {
				return err
			}
			continue
		}
		var c api.Claim
		if err := s.o.API.Call(ctx, api.MethodClaim, p, &c); err != nil {
			fmt.Fprintln(s.c, err)
			var ae *api.Error
			if s.oneShot || errors.As(err, &ae) && ae.Code != "away" && ae.Code != "invalid" {
				return err
			}
			continue
		}
		fmt.Fprintln(s.c, "The router is yours. User name: admin")
		return nil
	}
	return ctx.Err()
}

func (s *Shell) claimParams() (api.ClaimParams, error) {
	p := api.ClaimParams{Author: s.o.Author}
	first, err := s.ask("New password, or key: ", true)
	if err != nil {
		return p, err
	}
	switch strings.TrimSpace(first) {
	case "":
		return p, say(`Type a password of 12 characters or more, or the word "key".`)
	case "key":
		line, err := s.ask("Public key (the line of a .pub file): ", false)
		if err != nil {
			return p, err
		}
		p.Key, _, err = publicKey(line)
		return p, err
	case "password":
		p.Password, err = s.newPassword("New password (12 characters or more): ")
		return p, err
	}
	if p.Password, err = s.o.Hash(first); err != nil || s.oneShot {
		return p, err
	}
	again, err := s.ask("Once more: ", true)
	if err == nil && again != first {
		err = say("The two differ; try again.")
	}
	return p, err
}

// Login asks for the admin's password until check accepts it. Its error ends
// the session.
func Login(ctx context.Context, t *Terminal, check func(ctx context.Context, password string) error) error {
	for ctx.Err() == nil {
		p, err := t.secret("Password of admin: ")
		switch {
		case errors.Is(err, errInterrupted):
			continue
		case err != nil:
			return err
		}
		if err = check(ctx, p); err == nil {
			return nil
		}
		fmt.Fprintln(t, err)
	}
	return ctx.Err()
}

// WaitEnter shows text and waits for the Enter key.
func WaitEnter(t *Terminal, text string) error {
	fmt.Fprintln(t, text)
	for {
		_, err := t.secret("")
		if err == nil || t.in.ended() {
			return err
		}
	}
}
