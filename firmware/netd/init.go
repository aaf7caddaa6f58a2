package netd

import (
	"errors"
	"io"
	"net"
	"sync"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
)

// initClient speaks to init over the socket at path, connecting anew when needed.
type initClient struct {
	path string
	mu   sync.Mutex
	c    *initctl.Client
}

// with runs f on a connection to init. It runs f once more, on a new one, when
// a connection of before turns out to be gone. What init refuses, and what it
// does not answer in time, it may have done: that is never asked for twice.
func (i *initClient) with(f func(*initctl.Client) error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.c != nil {
		err := i.run(f)
		if !disconnected(err) {
			return err
		}
	}
	c, err := initctl.DialPath(i.path)
	if err != nil {
		return err
	}
	i.c = c
	return i.run(f)
}

// run forgets the connection on any error: the next answer on it could be the
// one to this request.
func (i *initClient) run(f func(*initctl.Client) error) error {
	err := f(i.c)
	if err != nil {
		i.c.Close()
		i.c = nil
	}
	return err
}

// disconnected tells that the other end of a connection is gone.
func disconnected(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && !op.Timeout()
}
