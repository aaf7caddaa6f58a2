package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/culvert-fw/culvert/board"
)

// loadHardware reads what init needs out of a board.json.
func loadHardware(path string) (Hardware, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Hardware{}, err
	}
	brd, err := board.Parse(b)
	if err != nil {
		return Hardware{}, fmt.Errorf("%s: %w", path, err)
	}
	hw := Hardware{
		Board:        brd.ID,
		DataDisk:     Disk{Serial: brd.Data.Serial},
		SettingsDisk: Disk{Serial: brd.SettingsDisk},
		Watchdog:     brd.Watchdog,
		Quirks:       brd.Quirks,
	}
	if brd.Console.Device != "" {
		hw.Console = filepath.Join("/dev", brd.Console.Device)
	}
	if brd.Data.Device != "" {
		hw.DataDisk.Path = filepath.Join("/dev", brd.Data.Device)
	}
	return hw, nil
}

// writeQuirks does what a boot loader or a perfect machine would have done.
// One that fails does not keep the others, or the router, from working.
func (m *machine) writeQuirks() error {
	var bad []error
	for _, q := range m.hw.Quirks {
		if err := writeAt(q.File, q.Bytes(), q.Offset); err != nil {
			bad = append(bad, fmt.Errorf("quirk of the board (%s): %w", q.Why, err))
		}
	}
	return errors.Join(bad...)
}

func writeAt(name string, b []byte, offset int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if offset > 0 {
		_, err = f.WriteAt(b, offset)
	} else {
		_, err = f.Write(b) // what is below /sys takes no offset
	}
	return errors.Join(err, f.Close())
}
