package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// ErrAway is the error of every call while netd does not answer.
var ErrAway = &Error{Code: "away", Text: "The network manager is restarting; try again in a few seconds."}

// Client talks to netd. Every call has a connection of its own, so that a
// restart of netd fails at most the calls under way and needs no reconnecting.
// Its methods may be called concurrently.
type Client struct {
	socket string
}

// NewClient makes a client of the unix socket at path; it does not connect yet.
func NewClient(path string) *Client { return &Client{socket: path} }

// Dial makes a client of the unix socket at path and tells whether netd answers there.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := NewClient(path)
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, nc.Close()
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, away(ctx)
	}
	return nc, nil
}

func away(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ErrAway
}

// Call makes one request and decodes its result into result, which may be nil.
// An error of netd's is an *Error, ErrAway while netd does not answer.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	return c.do(ctx, method, params, func(raw json.RawMessage) error {
		if result == nil || len(raw) == 0 {
			return nil
		}
		if err := json.Unmarshal(raw, result); err != nil {
			return fmt.Errorf("%s: the network manager's answer: %w", method, err)
		}
		return nil
	})
}

// Stream makes one request and calls each with every answer until the stream
// ends (nil), each fails, ctx ends or netd goes away (ErrAway).
func (c *Client) Stream(ctx context.Context, method string, params any, each func(json.RawMessage) error) error {
	return c.do(ctx, method, params, each)
}

func (c *Client) do(ctx context.Context, method string, params any, each func(json.RawMessage) error) error {
	req := request{ID: 1, Method: method}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		req.Params = raw
	}
	var body []byte
	if p, ok := params.(interface{ GetBody() []byte }); ok {
		body = p.GetBody()
		req.Body = len(body)
	}
	b, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if len(b) >= MaxLine || len(body) > MaxLine {
		return &Error{Code: "invalid", Text: fmt.Sprintf("The request is longer than %d bytes.", MaxLine)}
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	// A server that refuses closes without having read: its answer is worth
	// reading even though the write failed.
	_, werr := nc.Write(append(append(b, '\n'), body...))
	br := bufio.NewReader(nc)
	for {
		line, err := readLine(br)
		if err != nil {
			if errors.Is(err, errTooLong) {
				return &Error{Code: "failed", Text: fmt.Sprintf("%s: the network manager's answer is longer than %d bytes.", method, MaxLine)}
			}
			return away(ctx)
		}
		var r reply
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%s: the network manager's answer: %w", method, err)
		}
		switch {
		case r.Error != nil:
			return r.Error
		case werr != nil:
			return away(ctx)
		case r.More:
			if err := each(r.Result); err != nil {
				return err
			}
		case r.Result == nil: // the end of a stream
			return nil
		default:
			return each(r.Result)
		}
	}
}
