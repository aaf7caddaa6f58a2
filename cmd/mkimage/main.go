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
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/culvert-fw/culvert/board"
	"github.com/culvert-fw/culvert/firmware/image"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func main() {
	repo := flag.String("repo", ".", "the folder of go.mod")
	out := flag.String("out", "out", "where the results go")
	initial := flag.String("settings", "", "initial settings (JSON) to bake into the image")
	peers := flag.Bool("peers", false, "build the lab's peers too")
	boards := flag.Bool("boards", false, "list the boards")
	flag.Parse()
	var err error
	if *boards {
		err = list(*repo)
	} else {
		err = build(*repo, *out, *initial, *peers, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func build(repo, out, initial string, peers bool, ids []string) error {
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
	if initial != "" {
		if err := checkSettings(initial); err != nil {
			return err
		}
	}
	cache, err := image.DefaultCache()
	if err != nil {
		return err
	}
	images, err := image.Build(image.Options{
		Repo: repo, Out: out, Boards: ids, Peers: peers, Settings: initial,
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

// checkSettings refuses what the router would refuse at its first boot, before a long build.
func checkSettings(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("SETTINGS: %w; give a file that `export` of the router's shell wrote", err)
	}
	s, problems := settings.Parse(data)
	if len(problems) == 0 {
		problems = s.Validate()
	}
	if len(problems) > 0 {
		return fmt.Errorf("the router would refuse the settings in %s:\n%w\ndocs/settings.md lists what there is", name, problems)
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%d MB\t%s\t%s\t%s\t%s\n", b.ID, b.Name, b.Arch.GOARCH, b.RAM, b.Kernel, strings.Join(b.Ports.LAN, " "), b.Ports.WAN, b.WiFi)
	}
	return t.Flush()
}
