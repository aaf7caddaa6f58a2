// Command vmrun boots a board's image in QEMU:
//
//	vmrun -board B -lan NET -wan NET -serial CONSOLE -mem MB -data FILE -settings FILE
//
// NET is user[:PORT], tap:NAME, socket:PATH or none (the cable is unplugged); CONSOLE is stdio, unix:PATH or file:PATH.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/culvert-fw/culvert/board"
	"github.com/culvert-fw/culvert/qemu/vm"
)

type flags struct {
	repo, out, board, lan, wan, serial, data, settings string
	machine                                            vm.Options
}

func main() {
	var f flags
	flag.StringVar(&f.board, "board", "qemu-mips", "the board whose image boots")
	flag.StringVar(&f.lan, "lan", "user", "LAN card: user[:PORT], tap:NAME, socket:PATH or none; PORT of 127.0.0.1 leads to the router's SSH (2222)")
	flag.StringVar(&f.wan, "wan", "user", "WAN card: user, tap:NAME, socket:PATH or none")
	flag.StringVar(&f.serial, "serial", "stdio", "serial console: stdio, unix:PATH or file:PATH")
	flag.IntVar(&f.machine.Mem, "mem", 0, "RAM in MB (default: what the board has)")
	flag.StringVar(&f.data, "data", "", "disk for /data, kept between boots and made when it is not there (default: a new one each time)")
	flag.StringVar(&f.settings, "settings", "", "file with initial settings (JSON)")
	flag.StringVar(&f.repo, "repo", ".", "the folder of go.mod")
	flag.StringVar(&f.out, "out", "", "where the images are (default: REPO/out)")
	flag.StringVar(&f.machine.LANMAC, "mac-lan", vm.DefaultLANMAC, "address of the LAN card")
	flag.StringVar(&f.machine.WANMAC, "mac-wan", vm.DefaultWANMAC, "address of the WAN card")
	flag.StringVar(&f.machine.Append, "append", "", "added to the kernel's command line")
	flag.StringVar(&f.machine.QMP, "qmp", "", "unix socket for QEMU's control protocol")
	flag.StringVar(&f.machine.PIDFile, "pidfile", "", "file for QEMU's process id")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "vmrun: %q is not an option; see vmrun -help\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "vmrun:", err)
		os.Exit(1)
	}
}

func run(f flags) (err error) {
	o := f.machine
	var lanErr, wanErr, serialErr error
	o.LAN, lanErr = vm.ParseNet(f.lan, true)
	o.WAN, wanErr = vm.ParseNet(f.wan, false)
	o.Serial, serialErr = vm.ParseConsole(f.serial)
	if err := errors.Join(lanErr, wanErr, serialErr); err != nil {
		return err
	}
	if o.Board, err = board.Load(os.DirFS(filepath.Join(f.repo, "board")), f.board); err != nil {
		return err
	}
	if f.out == "" {
		f.out = filepath.Join(f.repo, "out")
	}
	o.Dir = filepath.Join(f.out, f.board)
	if _, err := os.Stat(filepath.Join(o.Dir, "manifest.json")); err != nil {
		return fmt.Errorf("there is no image of %s: run make image BOARD=%s first (%w)", f.board, f.board, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tmp, err := os.MkdirTemp("", "vmrun-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if o.Data = f.data; o.Data == "" {
		o.Data = filepath.Join(tmp, "data.img")
	}
	var log bytes.Buffer
	if err := vm.PrepareData(o.Data, &log); err != nil {
		return fmt.Errorf("%w\n%s", err, log.Bytes())
	}
	if f.settings != "" {
		if o.Settings, err = vm.PrepareSettings(f.settings, tmp); err != nil {
			return err
		}
	}
	streams := vm.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	if o.Serial.Kind == "stdio" {
		c := newConsole(os.Stdout, os.Stderr, hint(o))
		defer c.close()
		streams.Out = c
	}
	return vm.Run(ctx, o, streams)
}

// hint tells a person at the console how to leave and what else there is.
func hint(o vm.Options) string {
	text := "Ctrl-A X quits."
	if o.LAN.Kind == vm.User && o.LAN.Port != 0 {
		text += fmt.Sprintf(" Other terminal: ssh -p %d admin@localhost", o.LAN.Port)
	}
	return text
}
