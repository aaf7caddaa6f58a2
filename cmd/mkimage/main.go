// Command mkimage builds boards' images on the build host.
//
//	mkimage [-out DIR] [-settings FILE] [-peers] [BOARD...]   build; no BOARD: every board
//	mkimage -boards                                           a table of the boards
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/culvert-fw/culvert/board"
	"github.com/culvert-fw/culvert/firmware/image"
)

func main() {
	repo := flag.String("repo", ".", "the folder of go.mod")
	out := flag.String("out", "out", "where the results go")
	settings := flag.String("settings", "", "initial settings (JSON) to bake into the image")
	peers := flag.Bool("peers", false, "build the lab's peers too")
	boards := flag.Bool("boards", false, "list the boards")
	flag.Parse()
	var err error
	if *boards {
		err = list(*repo)
	} else {
		err = build(*repo, *out, *settings, *peers, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func build(repo, out, settings string, peers bool, ids []string) error {
	repo, err := filepath.Abs(repo)
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	if len(ids) == 0 {
		all, err := board.List(os.DirFS(filepath.Join(repo, "board")))
		if err != nil {
			return err
		}
		for _, b := range all {
			ids = append(ids, b.ID)
		}
	}
	cache, err := image.DefaultCache()
	if err != nil {
		return err
	}
	images, err := image.Build(image.Options{
		Repo: repo, Out: out, Boards: ids, Peers: peers, Settings: settings,
		Source: os.Getenv("KERNEL_SRC"), Jobs: runtime.NumCPU(), Cache: cache,
		Progress: &image.Progress{
			Out: os.Stdout, Live: term.IsTerminal(int(os.Stdout.Fd())),
			LogDir: filepath.Join(out, "log"), Now: time.Now,
		},
	})
	if err != nil {
		return err
	}
	for _, img := range images {
		img.Report(os.Stdout)
		if err := image.CheckLimits(img.Board, img.Files); err != nil {
			return err
		}
	}
	return nil
}

func list(repo string) error {
	all, err := board.List(os.DirFS(filepath.Join(repo, "board")))
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BOARD\tNAME\tCPU\tRAM\tKERNEL\tLAN\tWAN\tWI-FI")
	for _, b := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d MB\t%s\t%v\t%s\t%s\n", b.ID, b.Name, b.Arch.GOARCH, b.RAM, b.Kernel, b.Ports.LAN, b.Ports.WAN, b.WiFi)
	}
	return t.Flush()
}
