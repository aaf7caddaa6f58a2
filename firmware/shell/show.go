package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// get fetches what a show command shows. With --json it prints the answer as
// it came and reports done.
func get[R any](ctx context.Context, s *Shell, a args, method string, params any) (r R, done bool, err error) {
	var raw json.RawMessage
	if err := s.o.API.Call(ctx, method, params, &raw); err != nil {
		return r, true, err
	}
	if a.json {
		return r, true, s.printJSON(raw)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, true, fmt.Errorf("%s: the network manager's answer: %w", method, err)
	}
	return r, false, nil
}

func (s *Shell) printJSON(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if string(raw) == "null" {
		raw = []byte("[]") // an empty list of Go's
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = s.c.Write(b.Bytes())
	return err
}

func runShowStatus(ctx context.Context, s *Shell, a args) error {
	st, done, err := get[api.Status](ctx, s, a, api.MethodStatus, nil)
	if done {
		return err
	}
	row := func(name, format string, v ...any) {
		fmt.Fprintf(s.c, "%-10s %s\n", name, fmt.Sprintf(format, v...))
	}
	row("Router", "%s (%s), Culvert %s", st.Hostname, st.Board, st.Version)
	set := ""
	if !st.ClockSet {
		set = " (not set by NTP yet)"
	}
	row("Time", "%s UTC%s, up %s", clock(st.Time), set, age(st.Uptime))
	owner := ""
	if !st.Claimed {
		owner = "; nobody owns this router yet"
	}
	row("Settings", "revision %d%s", st.Revision, owner)
	if st.SerialOpen {
		row("Serial", "open, because no password is set; close it with: password")
	}
	wan := fmt.Sprintf("%s, %s, %s", upDown(st.WAN.Up), st.WAN.Mode, prefix(st.WAN.Address))
	if st.WAN.Gateway.IsValid() {
		wan += " via " + st.WAN.Gateway.String()
	}
	if !st.WAN.Expires.IsZero() && !st.Time.IsZero() {
		wan += ", lease " + age(st.WAN.Expires.Sub(st.Time))
	}
	row("Internet", "%s", wan)
	row("DNS", "%s; %d queries, %d from the cache, %d failed", join(st.WAN.DNS), st.DNS.Queries, st.DNS.Hits, st.DNS.Failures)
	moved := ""
	if st.LAN.Moved {
		moved = " (moved by itself: the Internet side offered the old subnet)"
	}
	row("LAN", "%s, %d devices%s", prefix(st.LAN.Address), st.LAN.Leases, moved)
	row("Memory", "%s of %s free, programs use %s", size(st.Memory.Available), size(st.Memory.Total), size(st.Memory.Anonymous))
	row("Tracking", "%d of %d connections", st.Conntrack.Used, st.Conntrack.Max)
	for i, v := range st.Services {
		name := ""
		if i == 0 {
			name = "Services"
		}
		text := fmt.Sprintf("%-8s %s", v.Name, v.State)
		if v.Since > 0 {
			text += " for " + age(v.Since)
		}
		if v.Restarts > 0 {
			text += fmt.Sprintf(", restarts: %d", v.Restarts)
			if v.LastExit != "" {
				text += " (last: " + v.LastExit + ")"
			}
		}
		row(name, "%s", text)
	}
	for _, p := range st.Problems {
		fmt.Fprintf(s.c, "! %s\n", p)
	}
	return nil
}

func runShowInterfaces(ctx context.Context, s *Shell, a args) error {
	ifs, done, err := get[[]api.Interface](ctx, s, a, api.MethodInterfaces, nil)
	if done {
		return err
	}
	t := newTable("NAME", "ROLE", "STATE", "ADDRESS", "MAC", ">MTU", ">RX", ">TX", ">ERR")
	for _, i := range ifs {
		state := upDown(i.Up)
		if i.Up && !i.Carrier {
			state = "no cable"
		}
		first := "-"
		if len(i.Addresses) > 0 {
			first = i.Addresses[0].String()
		}
		t.add(i.Name, dash(i.Role), state, first, dash(i.MAC), strconv.Itoa(i.MTU), size(i.RxBytes), size(i.TxBytes), strconv.FormatUint(i.Errors, 10))
		for _, p := range i.Addresses[min(1, len(i.Addresses)):] {
			t.add("", "", "", p.String())
		}
	}
	t.write(s.c, s.width())
	return nil
}

func runShowLeases(ctx context.Context, s *Shell, a args) error {
	ls, done, err := get[[]api.Lease](ctx, s, a, api.MethodLeases, nil)
	if done {
		return err
	}
	if len(ls) == 0 {
		fmt.Fprintln(s.c, "No device has an address from this router yet.")
		return nil
	}
	t := newTable("ADDRESS", "MAC", "NAME", "EXPIRES")
	for _, l := range ls {
		expires := "fixed"
		if !l.Static {
			expires = clock(l.Expires)
		}
		t.add(addr(l.Addr), l.MAC, dash(l.Name), expires)
	}
	t.write(s.c, s.width())
	return nil
}

func runShowConnections(ctx context.Context, s *Shell, a args) error {
	var p api.ConnectionsParams
	if len(a.words) > 1 {
		return a.usageError()
	}
	if len(a.words) == 1 {
		d, err := netip.ParseAddr(a.words[0])
		if err != nil {
			return fmt.Errorf("%q is not an address; e.g.: %s 192.168.1.100", a.words[0], a.path)
		}
		p.Device = d
	}
	cs, done, err := get[[]api.Connection](ctx, s, a, api.MethodConnections, p)
	if done {
		return err
	}
	t := newTable("PROTO", "FROM", "TO", "STATE", ">BYTES", ">LEFT")
	for _, c := range cs {
		state := c.State
		if c.Offloaded {
			state = strings.TrimSpace(state + " fast")
		}
		to := endpoint(c.Dst)
		if c.ReplySrc.IsValid() && c.ReplySrc != c.Dst {
			to += " (" + endpoint(c.ReplySrc) + ")" // a port forward
		}
		t.add(c.Protocol, endpoint(c.Src), to, dash(state), size(c.Bytes), age(c.Timeout))
	}
	t.write(s.c, s.width())
	return nil
}

func endpoint(p netip.AddrPort) string {
	if p.Port() == 0 {
		return addr(p.Addr())
	}
	return p.String()
}

func sortedKeys[V any](m map[string]V) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	sort.Strings(ks)
	return ks
}

func runShowLog(ctx context.Context, s *Shell, a args) error {
	p := api.LogParams{Lines: 100}
	for _, w := range a.words {
		if n, err := strconv.Atoi(w); err == nil && n > 0 {
			p.Lines = n
		} else if p.Service == "" {
			p.Service = w
		} else {
			return a.usageError()
		}
	}
	ls, done, err := get[[]api.LogLine](ctx, s, a, api.MethodLog, p)
	if done {
		return err
	}
	for _, l := range ls {
		fmt.Fprintf(s.c, "%s %s: %s\n", clock(l.Time), l.Service, l.Text)
	}
	return nil
}

func runShowVersion(ctx context.Context, s *Shell, a args) error {
	v, done, err := get[api.Version](ctx, s, a, api.MethodVersion, nil)
	if done {
		return err
	}
	fmt.Fprintf(s.c, "Culvert %s on %s, Linux %s, %s\n", v.Culvert, v.Board, v.Kernel, v.Go)
	return nil
}

func runShowSettings(ctx context.Context, s *Shell, a args) error {
	_, cfg, err := s.fetch(ctx, 0)
	if err != nil {
		return err
	}
	if a.json {
		return s.printJSON(cfg)
	}
	lines, err := settings.LinesAt(cfg, fullPath(a.words))
	if err != nil {
		return err
	}
	for _, line := range lines {
		fmt.Fprintln(s.c, line)
	}
	if s.cand.changed() {
		fmt.Fprintln(s.c, "These run now. For your changes that are not committed, type: compare")
	}
	return nil
}
