package shell

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
)

func runShowPassthrough(ctx context.Context, s *Shell, a args) error {
	return showLive(ctx, s, a, api.MethodPassthrough, writeSessions)
}

func runShowCounters(ctx context.Context, s *Shell, a args) error {
	return showLive(ctx, s, a, api.MethodCounters, writeCounters)
}

// showLive shows a method's answer once, or with --watch again and again.
func showLive[R any](ctx context.Context, s *Shell, a args, method string, write func(w io.Writer, r R, width int)) error {
	if len(a.words) > 0 {
		return a.usageError()
	}
	if a.watch && a.json {
		return say("--watch draws for people. A program asks again: %s --json", a.path)
	}
	draw := func(w io.Writer) error {
		r, done, err := get[R](ctx, s, a, method, nil)
		if !done {
			write(w, r, s.tableWidth())
		}
		return err
	}
	if a.watch {
		return s.watch(ctx, draw)
	}
	return draw(s.c)
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

func writeCounters(w io.Writer, c api.PassthroughCounters, width int) {
	if !slices.ContainsFunc(c.Sets, func(s api.SetFill) bool { return s.Name == "assocs" }) {
		fmt.Fprintln(w, "Native IPsec does not pass: it is switched off, or there is no Internet address.")
	}
	if len(c.Servers) > 0 {
		t := newTable("SERVER", ">DEVICES", "OWNER", ">SPIS", ">OUT", ">BYTES", ">SPIS", ">IN", ">BYTES", ">COPIED")
		for _, v := range c.Servers {
			owner := "only device"
			if v.Copied {
				owner = fmt.Sprintf("%d of %d known", v.SPIsBound, v.SPIsIn)
			}
			t.add(addr(v.Server), strconv.Itoa(v.Devices), owner, strconv.Itoa(v.SPIsOut), strconv.FormatUint(v.PktsOut, 10), size(v.BytesOut),
				strconv.Itoa(v.SPIsIn), strconv.FormatUint(v.PktsIn, 10), size(v.BytesIn), strconv.FormatUint(v.Copies, 10))
		}
		t.write(w, width)
	}
	if len(c.Sets) > 0 {
		t := newTable("SET", ">USED", ">LIMIT")
		for _, v := range c.Sets {
			t.add(v.Name, strconv.Itoa(v.Used), strconv.Itoa(v.Max))
		}
		t.write(w, width)
	}
	if c.Expectations.Max > 0 {
		fmt.Fprintf(w, "Helpers wait for %d connections, at most %d: two of each PPTP call until its GRE begins.\n", c.Expectations.Used, c.Expectations.Max)
	}
	for _, v := range c.Dropped {
		fmt.Fprint(w, wrap(fmt.Sprintf("%s sent too much that is new at once: %d packets dropped.", strings.TrimSpace(v.Name+" "+addr(v.Device)), v.Packets), "", min(width, 80)))
	}
	if c.Keeper.IsValid() {
		fmt.Fprint(w, wrap(fmt.Sprintf("%s keeps its source port: passthrough priority.", addr(c.Keeper)), "", min(width, 80)))
	}
	for _, v := range c.L2TPClashes {
		fmt.Fprint(w, wrap(fmt.Sprintf("%s chose L2TP Tunnel ID %d at %s, which %s has: it keeps it.", addr(v.Device), v.Tunnel, addr(v.Server), addr(v.Owner)), "", min(width, 80)))
	}
	if c.Clashes > 0 {
		fmt.Fprint(w, wrap(fmt.Sprintf("%d packets dropped since the start because their connection clashed with another device's to the same server: a protocol without ports.", c.Clashes), "", min(width, 80)))
	}
	for _, v := range c.Crowding {
		fmt.Fprint(w, wrap(fmt.Sprintf("%s has more than a quarter of a set; nothing new of it is learned until it has less.", addr(v)), "", min(width, 80)))
	}
	writeNames(w, c.Names, width)
	fmt.Fprint(w, wrap(fmt.Sprintf("Since the network manager started: %d further devices let in to a server that had one, %d packets of further devices refused (a server has at most %d); %d SPIs found to be one device's, %d of these findings withdrawn.",
		c.SecondDevices, c.Refused, c.MostDevices, c.Bindings, c.Corrections), "", min(width, 80)))
}

// writeNames tells what DNS says of the servers that lists name. Addresses in
// brackets are those of earlier answers that count all the same.
func writeNames(w io.Writer, names []api.ServerName, width int) {
	if len(names) == 0 {
		return
	}
	t := newTable("NAME", "ADDRESSES", ">RESOLVED", ">NEXT")
	for _, v := range names {
		var as []string
		for _, a := range v.Addresses {
			as = append(as, addr(a))
		}
		for _, a := range v.Held {
			as = append(as, "("+addr(a)+")")
		}
		resolved := "never"
		if v.Resolved != nil {
			resolved = age(v.Resolved.Truncate(time.Second)) + " ago"
		}
		t.add(v.Name, dash(strings.Join(as, " ")), resolved, "in "+age(v.Next.Truncate(time.Second)))
	}
	if t.fits(width) {
		t.write(w, width)
	} else {
		for _, r := range t.rows {
			fmt.Fprint(w, wrap(fmt.Sprintf("%s: %s, resolved %s, again %s", r[0], r[1], r[2], r[3]), "  ", width))
		}
	}
	for _, v := range names {
		if v.Problem != "" {
			fmt.Fprint(w, wrap(v.Name+" does not resolve: "+v.Problem, "", width))
		}
	}
}
