package boot

import (
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
		IOPorts:      brd.IOPorts,
	}
	if brd.Console.Device != "" {
		hw.Console = filepath.Join("/dev", brd.Console.Device)
	}
	if brd.Data.Device != "" {
		hw.DataDisk.Path = filepath.Join("/dev", brd.Data.Device)
	}
	return hw, nil
}

// writePorts sets up by /dev/port what a boot loader would have.
func (m *machine) writePorts() error {
	if len(m.hw.IOPorts) == 0 {
		return nil
	}
	f, err := os.OpenFile("/dev/port", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range m.hw.IOPorts {
		if _, err := f.WriteAt([]byte{p.Value}, int64(p.Port)); err != nil {
			return fmt.Errorf("port %#x (%s): %w", p.Port, p.Why, err)
		}
	}
	return nil
}
