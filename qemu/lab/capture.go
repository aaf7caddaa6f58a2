package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// Frame is an Ethernet frame that went over a host's cable, its first bytes.
type Frame struct {
	At   time.Time // by the peers' clock
	Data []byte
}

// Capture records a host's cable.
type Capture struct {
	l    *Lab
	p    *peers.Process
	file string
}

// captured is how much of a frame is kept, in bytes: IPsec's headers.
const captured = 128

// Capture begins to record the IPv4 frames of a host's eth0, at the bridge: what
// the host decrypts is not among them.
func (l *Lab) Capture(h *peers.Host) *Capture {
	l.t.Helper()
	m := l.Peers.Machine()
	file := "/tmp/" + h.Name + ".pcap"
	p, err := m.Start("tcpdump", "-i", h.Name+"-eth0", "-n", "-U", "-Z", "root", "-s", fmt.Sprint(captured), "-w", file, "ip")
	l.check(err)
	l.Until("tcpdump", 30*time.Second, func() error {
		out, exited, err := p.Log()
		switch {
		case err != nil:
			return err
		case exited:
			l.t.Fatalf("tcpdump: %s", out)
		case !strings.Contains(out, "listening on"):
			return fmt.Errorf("tcpdump says: %s", out)
		}
		return nil
	})
	return &Capture{l, p, file}
}

// Stop ends the capture and returns its frames in order.
func (c *Capture) Stop() []Frame {
	c.l.t.Helper()
	c.l.check(c.p.Stop())
	if out, _, err := c.p.Log(); err != nil || !strings.Contains(out, "0 packets dropped by kernel") {
		c.l.t.Errorf("the capture is not complete (%v): %s", err, out)
	}
	raw, err := c.l.Peers.Machine().Read(c.file)
	c.l.check(err)
	frames, err := parsePcap([]byte(raw))
	c.l.check(err)
	return frames
}

// parsePcap reads a file of tcpdump on this machine: microseconds, its own byte
// order (pcap-savefile(5)).
func parsePcap(b []byte) ([]Frame, error) {
	order := binary.NativeEndian
	if len(b) < 24 || order.Uint32(b) != 0xa1b2c3d4 || order.Uint32(b[20:]) != 1 {
		return nil, errors.New("not a capture of Ethernet frames")
	}
	var out []Frame
	for b = b[24:]; len(b) > 0; {
		if len(b) < 16 {
			return nil, errors.New("the capture ends within a frame's header")
		}
		n := int(order.Uint32(b[8:]))
		if n > len(b)-16 {
			return nil, errors.New("the capture ends within a frame")
		}
		at := time.Unix(int64(order.Uint32(b)), 1000*int64(order.Uint32(b[4:])))
		out = append(out, Frame{at, b[16 : 16+n]})
		b = b[16+n:]
	}
	return out, nil
}
