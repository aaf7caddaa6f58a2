package boot

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
)

// dataDisk is what is mounted on /data.
type dataDisk struct {
	initctl.Data
	mounted bool
}

const (
	dataFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	// A damaged file system must not be damaged further, and must not stop the router.
	dataOptions = "errors=remount-ro,data=ordered"
	// eraseMax bounds what a factory reset overwrites: everything on the
	// small disks of routers, the part that was used on large ones.
	eraseMax = 256 << 20
	// diskWait is how long a disk that the board names by its device may take
	// to appear: SD cards are found in the background, virtio disks are not.
	diskWait = 5 * time.Second
)

// mountData mounts the data disk. A blank, broken or reset one is made anew
// from the seed. Without a usable disk /data is in RAM. Only when even that
// fails it returns an error.
func (m *machine) mountData() error {
	want := m.hw.DataDisk
	if want == (Disk{}) {
		return m.dataInRAM("this board has no data disk")
	}
	dev := m.awaitDisk(want)
	if dev == "" {
		return m.dataInRAM(fmt.Sprintf("there is no disk %s", want))
	}
	m.data.Device = dev
	why, err := m.remakeIfNeeded(dev)
	if err != nil {
		return m.dataInRAM(fmt.Sprintf("%s cannot be used: %v", dev, err))
	}
	err = m.mountDevice(dev)
	if why == "" && damaged(err) {
		why = fmt.Sprintf("was broken, mount says: %v", err)
		if err = m.remake(dev, why, false); err == nil {
			err = m.mountDevice(dev)
		}
	}
	if err != nil {
		return m.dataInRAM(fmt.Sprintf("%s cannot be mounted: %v", dev, err))
	}
	if m.data.Remade = why; why != "" && why != wasBlank && why != wasReset {
		m.problem("Data: " + dev + " " + why + "; it was made anew, the settings are lost. Import a copy of them, if there is one.")
	}
	m.growData(dev)
	return nil
}

// String names the disk for people.
func (d Disk) String() string {
	if d.Path != "" {
		return d.Path
	}
	return "with serial number " + d.Serial
}

func (m *machine) awaitDisk(d Disk) string {
	for end := time.Now().Add(diskWait); ; time.Sleep(50 * time.Millisecond) {
		dev := findDisk(m.o.SysBlock, d)
		if dev != "" || d.Path == "" || time.Now().After(end) {
			return dev
		}
	}
}

func (m *machine) mountDevice(dev string) error {
	return unix.Mount(dev, m.o.DataDir, "ext4", dataFlags, dataOptions)
}

// damaged tells whether a failed mount means that the file system, not the
// machine, is at fault: only then may it be made anew. A kernel without ext4
// (ENODEV) or without memory must not cost anybody his settings.
func damaged(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EUCLEAN) ||
		errors.Is(err, unix.EBADMSG) || errors.Is(err, unix.EIO)
}

// remakeIfNeeded makes a disk anew that holds no file system, and says why.
func (m *machine) remakeIfNeeded(dev string) (why string, err error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	sb, err := readSuper(f)
	f.Close()
	if err != nil {
		return "", err
	}
	if why = sb.verdict(); why == "" {
		if sb.errors {
			m.problem("Data: the kernel found errors in the file system earlier. Type export to save the settings, then factory-reset and import.")
		}
		return "", nil
	}
	return why, m.remake(dev, why, sb.reset)
}

// What makes a new file system and is no fault.
const (
	wasBlank = "was blank"
	wasReset = "factory reset"
)

// verdict says why a disk must be made anew, "" if it need not.
func (s superblock) verdict() string {
	switch {
	case s.reset:
		return wasReset
	case s.blank:
		return wasBlank
	case !s.ext4:
		return "held no ext4 file system"
	}
	return ""
}

// remake writes the seed to the disk; erase overwrites what was there first.
func (m *machine) remake(dev, why string, erase bool) error {
	seed, err := os.Open(m.o.Seed)
	if err != nil {
		return err
	}
	defer seed.Close()
	st, err := seed.Stat()
	if err != nil {
		return err
	}
	disk, err := os.OpenFile(dev, os.O_RDWR|unix.O_EXCL, 0) // O_EXCL: not if it is mounted
	if err != nil {
		return err
	}
	defer disk.Close()
	if erase {
		size, err := diskSize(disk)
		if err != nil {
			return err
		}
		// The old owner's secrets must not go on with the device.
		if !zeroOut(disk, 0, min(size, eraseMax)) {
			m.problem("Data: the old content could not be overwritten; parts of it may still be on the disk.")
		}
	}
	if err := writeSeed(disk, seed, st.Size()); err != nil {
		return fmt.Errorf("not made anew: %w", err)
	}
	m.say("data: %s remade (%s)", dev, why)
	return nil
}

// growData grows the file system to the disk's size; it was made for the
// smallest one. A failure costs space, nothing else.
func (m *machine) growData(dev string) {
	m.data.mounted = true
	f, err := os.Open(dev)
	if err != nil {
		return
	}
	defer f.Close()
	sb, err := readSuper(f)
	if err != nil {
		return
	}
	m.data.Size = sb.blocks * sb.blockSize
	size, err := diskSize(f)
	if err != nil || sb.blockSize == 0 || size/sb.blockSize <= sb.blocks {
		return
	}
	if err := growMounted(m.o.DataDir, size/sb.blockSize); err != nil {
		m.say("data: file system not grown from %d to %d KiB: %v", m.data.Size>>10, size>>10, err)
		return
	}
	m.data.Size = size
	m.say("data: grown to %d KiB", size>>10)
}

// dataInRAM is the way out when there is no disk: the router works, but forgets.
func (m *machine) dataInRAM(why string) error {
	m.data = dataDisk{Data: initctl.Data{Volatile: true}}
	err := unix.Mount("tmpfs", m.o.DataDir, "tmpfs", dataFlags, "size=8m,mode=0755")
	if err != nil {
		return fmt.Errorf("%s, and no RAM disk either: %w", why, err)
	}
	m.data.mounted = true
	m.problem("Data: " + why + "; settings will not survive a reboot.")
	return nil
}
