// Package ground is the benchmark's machine: the product's image in QEMU with a clock that counts
// instructions, so that what a run costs is the same on every host. The kernel is the product's
// with a packet generator; the ports are devices that drop what they are given; a program of the
// benchmark's own (qemu/bench/guest) measures in it when it is asked over a serial line.
package ground

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/firmware/settings"
	"github.com/culvert-fw/culvert/qemu/vm"
)

// Options say what machine it is.
type Options struct {
	Files    *Files
	Settings *settings.Settings // what the router starts with
	Mem      int                // megabytes; 0: what the board has
	VLAN     bool               // the WAN's port is a VLAN
	Console  string             // file for the serial console
	Data     string             // disk for /data, made when it is not there; empty: a new one each time
	Home     bool               // a device is at the LAN's port, which else drops what it is given
}

// Machine is one that runs.
type Machine struct {
	conn   net.Conn
	in     *bufio.Reader
	cancel context.CancelFunc
	done   chan error
	dir    string
	stderr bytes.Buffer
	once   sync.Once
	opt    Options
}

// bootWait is how long the guest may take until it answers, by the host's clock.
const bootWait = 4 * time.Minute

// Boot starts a machine and waits for its measuring program.
func Boot(ctx context.Context, o Options) (*Machine, error) {
	dir, err := os.MkdirTemp("", "culvert-bench-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, done: make(chan error, 1), opt: o}
	ctx, m.cancel = context.WithCancel(ctx)
	args, err := m.options()
	if err != nil {
		m.Stop()
		return nil, err
	}
	go func() { m.done <- vm.Run(ctx, args, vm.Streams{Out: &m.stderr, Err: &m.stderr}) }()
	if err := m.connect(ctx, args.Line); err != nil {
		m.Stop()
		return nil, m.explain(err)
	}
	return m, nil
}

func (m *Machine) options() (vm.Options, error) {
	o := m.opt
	file := filepath.Join(m.dir, "settings.json")
	if err := os.WriteFile(file, settings.Export(o.Settings, true), 0o600); err != nil {
		return vm.Options{}, err
	}
	initial, err := vm.PrepareSettings(file, m.dir)
	if err != nil {
		return vm.Options{}, err
	}
	data := o.Data
	if data == "" {
		data = filepath.Join(m.dir, "data.img")
	}
	if err := vm.PrepareData(data, io.Discard); err != nil {
		return vm.Options{}, err
	}
	extra := "root=/dev/vdb init=/guest"
	if o.VLAN {
		extra += " bench.vlan"
	}
	if o.Home {
		extra += " bench.home"
	}
	return vm.Options{
		Board: o.Files.Board, Dir: o.Files.Dir, LAN: vm.Net{Kind: vm.Absent}, WAN: vm.Net{Kind: vm.Absent},
		Serial: vm.Console{Kind: "file", Path: o.Console}, Mem: o.Mem, Data: data, Settings: initial, Append: extra,
		Counted: true, Bench: o.Files.Disk, Line: filepath.Join(m.dir, "line"),
	}, nil
}

// connect waits for the guest's first line.
func (m *Machine) connect(ctx context.Context, line string) error {
	deadline := time.Now().Add(bootWait)
	for {
		var err error
		if m.conn, err = net.Dial("unix", line); err == nil {
			break
		}
		select {
		case err := <-m.done:
			m.done <- err
			return fmt.Errorf("QEMU ended: %w", errors.Join(err, errors.New(m.stderr.String())))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	m.in = bufio.NewReader(m.conn)
	var ready string
	return m.answer(ctx, bootWait, &ready)
}

// Do asks the guest to measure what, and decodes what it says into result. wait is by the host's clock.
func (m *Machine) Do(ctx context.Context, wait time.Duration, what string, params, result any) error {
	b, err := json.Marshal(struct {
		Do     string `json:"do"`
		Params any    `json:"params,omitempty"`
	}{what, params})
	if err != nil {
		return err
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return m.explain(fmt.Errorf("%s: %w", what, err))
	}
	if err := m.answer(ctx, wait, result); err != nil {
		return m.explain(fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

func (m *Machine) answer(ctx context.Context, wait time.Duration, result any) error {
	m.conn.SetReadDeadline(time.Now().Add(wait))
	stop := context.AfterFunc(ctx, func() { m.conn.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := m.in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("no answer within %v: %w", wait, err)
	}
	var r struct {
		Result json.RawMessage
		Error  string
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("answer %q: %w", line, err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	if result == nil || len(r.Result) == 0 {
		return nil
	}
	return json.Unmarshal(r.Result, result)
}

// explain adds the end of the console, which says what became of the guest.
func (m *Machine) explain(err error) error {
	b, rerr := os.ReadFile(m.opt.Console)
	if rerr != nil || len(b) == 0 {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Errorf("%w\nthe console's last lines (%s):\n%s", err, m.opt.Console, strings.Join(lines[max(0, len(lines)-12):], "\n"))
}

// Stop ends the machine.
func (m *Machine) Stop() {
	m.once.Do(func() {
		m.cancel()
		if m.conn != nil {
			m.conn.Close()
			<-m.done
		}
		os.RemoveAll(m.dir)
	})
}

// Calibrate is how many instructions a nanosecond of the guest's clock has, by a loop that is known.
func (m *Machine) Calibrate(ctx context.Context) (float64, error) {
	var c struct{ Instructions, Elapsed uint64 }
	if err := m.Do(ctx, bootWait, "calibrate", map[string]uint32{"Loops": 1_000_000}, &c); err != nil {
		return 0, err
	}
	return float64(c.Instructions) / float64(c.Elapsed), nil
}
