package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/culvert-fw/culvert/board"
)

// Image is a finished image: the files that a board's recipe made, and what they cost.
type Image struct {
	Board   *board.Board
	Dir     string
	Version string
	Files   []File
	Parts   []Part // of the root file system
}

// File is one file of an image, as manifest.json has it.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// steps are the words a recipe may use. A step reads one file and writes another.
var steps = map[string]func(in, out string, with map[string]string, log io.Writer) error{
	"copy": func(in, out string, _ map[string]string, _ io.Writer) error { return install(in, out, 0o644) },
}

// cook follows the board's recipe and writes manifest.json.
func (img *Image) cook(inputs map[string]string, log io.Writer) error {
	made := map[string]string{}
	for n, p := range inputs {
		made[n] = p
	}
	for i, s := range img.Board.Image {
		step := steps[s.Do]
		in, ok := made[s.From]
		if step == nil || !ok {
			return fmt.Errorf("board %s: image[%d]: step %q or its input %q is not known", img.Board.ID, i, s.Do, s.From)
		}
		out := filepath.Join(img.Dir, s.To)
		if err := step(in, out, s.With, log); err != nil {
			return fmt.Errorf("board %s: image[%d] %s: %w", img.Board.ID, i, s.Do, err)
		}
		made[s.To] = out
		f, err := describe(out, s.To)
		if err != nil {
			return err
		}
		img.Files = append(img.Files, f)
	}
	return img.writeManifest()
}

func describe(path, name string) (File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	sum, err := hashFile(path)
	return File{name, fi.Size(), sum}, err
}

// Manifest is what manifest.json beside an image says.
type Manifest struct {
	Board   string `json:"board"`
	Version string `json:"version"`
	Files   []File `json:"files"`
	Parts   []Part `json:"parts"`
}

func (img *Image) writeManifest() error {
	data, err := marshal(Manifest{img.Board.ID, img.Version, img.Files, img.Parts})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(img.Dir, "manifest.json"), data, 0o644)
}

// ReadManifest reads the manifest.json of a finished image.
func ReadManifest(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	return m, json.Unmarshal(data, m)
}

// CheckLimits reports every file that is larger than the board allows. A board's kernel and root
// file system are the first files of its recipe that come from "kernel" and "rootfs".
func CheckLimits(b *board.Board, files []File) error {
	if b.Limits == nil {
		return nil
	}
	size := map[string]int64{}
	for _, f := range files {
		size[f.Name] = f.Size
	}
	var bad []error
	check := func(what string, limit int64) {
		for _, s := range b.Image {
			if s.From != what || limit == 0 {
				continue
			}
			if got := size[s.To]; got > limit {
				bad = append(bad, fmt.Errorf("%s: %s has %d bytes, %d more than the %d allowed", b.ID, s.To, got, got-limit, limit))
			}
			return
		}
	}
	check("kernel", b.Limits.Kernel)
	check("rootfs", b.Limits.RootFS)
	return errors.Join(bad...)
}

func marshal(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}
