package shell

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
)

func runShowPassthrough(ctx context.Context, s *Shell, a args) error {
	if len(a.words) > 0 {
		return a.usageError()
	}
	if !a.watch {
		ss, done, err := get[[]api.Session](ctx, s, a, api.MethodPassthrough, nil)
		if !done {
			writeSessions(s.c, ss, s.tableWidth())
		}
		return err
	}
	if a.json {
		return say("--watch draws for people. A program asks again: %s --json", a.path)
	}
	return s.watch(ctx, func(w io.Writer) error {
		ss, _, err := get[[]api.Session](ctx, s, a, api.MethodPassthrough, nil)
		if err == nil {
			writeSessions(w, ss, s.tableWidth())
		}
		return err
	})
}

// tableWidth is what a line of a table may have: without a terminal any.
func (s *Shell) tableWidth() int {
	if s.o.Terminal == nil {
		return 1 << 10
	}
	return s.width()
}

// writeSessions prints one line a session, or two where the terminal is narrow.
func writeSessions(w io.Writer, ss []api.Session, width int) {
	if len(ss) == 0 {
		fmt.Fprintln(w, "No VPN tunnel crosses the router.")
		return
	}
	t := newTable("DEVICE", "SERVER", "PROTOCOL", "STATE", "OWNER", "IDS", ">AGE", ">LAST", ">OUT", ">BYTES", ">IN", ">BYTES")
	for _, v := range ss {
		t.add(deviceName(v), serverName(v), protocolName(v), v.State, dash(v.Owner), dash(v.IDs), age(v.Age), lastPacket(v),
			strconv.FormatUint(v.PktsOut, 10), size(v.BytesOut), strconv.FormatUint(v.PktsIn, 10), size(v.BytesIn))
	}
	if t.fits(width) {
		t.write(w, width)
		return
	}
	t = newTable("DEVICE", "SERVER", "PROTOCOL", "STATE", ">AGE", ">LAST")
	for _, v := range ss {
		t.add(deviceName(v), serverName(v), protocolName(v), v.State, age(v.Age), lastPacket(v))
	}
	heads, narrow := t.lines(width), !t.fits(width)
	if !narrow {
		fmt.Fprintln(w, heads[0])
	}
	for i, v := range ss {
		if narrow {
			fmt.Fprint(w, wrap(strings.Join(t.rows[i][:4], " ")+", age "+t.rows[i][4]+", last "+t.rows[i][5], "", width))
		} else {
			fmt.Fprintln(w, heads[i+1])
		}
		fmt.Fprint(w, wrap(fmt.Sprintf("%s, %s, out %d packets %s, in %d packets %s", dash(v.IDs), dash(v.Owner), v.PktsOut, size(v.BytesOut), v.PktsIn, size(v.BytesIn)), "  ", width))
	}
}

func deviceName(v api.Session) string {
	if v.Name != "" {
		return v.Name
	}
	return addr(v.Device)
}

func serverName(v api.Session) string {
	if v.Inbound {
		return "< " + addr(v.Server) // the tunnel came from there
	}
	return addr(v.Server)
}

func protocolName(v api.Session) string { return strings.TrimSpace(v.Protocol + " " + v.Kind) }

func lastPacket(v api.Session) string {
	if v.Last == nil {
		return "-"
	}
	return age(*v.Last)
}
