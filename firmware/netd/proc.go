package netd

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/api"
)

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// memory reads /proc/meminfo.
func memory() api.Memory {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return api.Memory{}
	}
	defer f.Close()
	var m api.Memory
	want := map[string]*int64{"MemTotal": &m.Total, "MemAvailable": &m.Available, "AnonPages": &m.Anonymous}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		if p := want[name]; p != nil {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			*p = kb * 1024
		}
	}
	return m
}

// number reads a file that holds one number; 0 when there is none.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// conntrackFill is how full the kernel's table of connections is.
func conntrackFill() api.Fill {
	const dir = "/proc/sys/net/netfilter/"
	return api.Fill{Used: int(number(dir + "nf_conntrack_count")), Max: int(number(dir + "nf_conntrack_max"))}
}

// counters fills in the traffic counters of an interface.
func counters(i *api.Interface) {
	dir := filepath.Join("/sys/class/net", i.Name, "statistics")
	i.RxBytes, i.TxBytes = number(dir+"/rx_bytes"), number(dir+"/tx_bytes")
	i.RxPackets, i.TxPackets = number(dir+"/rx_packets"), number(dir+"/tx_packets")
	i.Errors = number(dir+"/rx_errors") + number(dir+"/tx_errors")
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// macOf finds the hardware address of a neighbour, "" when it is not known.
func macOf(addr string) string {
	f, err := os.Open("/proc/net/arp")
	if err != nil {
		return ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// IP address, HW type, Flags, HW address, Mask, Device
		if w := strings.Fields(sc.Text()); len(w) >= 4 && w[0] == addr && w[3] != "00:00:00:00:00:00" {
			return w[3]
		}
	}
	return ""
}
