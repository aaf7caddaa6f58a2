package boot

import (
	"os"

	"github.com/mdlayher/watchdog"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/boot/initctl"
	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/supervise"
)

const (
	// edgeUID is the user and group of what faces people and the LAN.
	edgeUID  = 100
	edgeHome = "/run/edge"
	boardCfg = "/etc/culvert/board.json"
	apiSock  = "/run/culvert/api.sock"

	nosuid   = unix.MS_NOSUID
	noexec   = unix.MS_NOEXEC
	nodev    = unix.MS_NODEV
	seedSize = 512 // bytes; more than the kernel's pool holds
)

// Default returns what init does on a router.
func Default() Options {
	return Options{
		Mounts:       routerMounts(),
		Sysctls:      routerSysctls(),
		Hardware:     func() (Hardware, error) { return loadHardware(boardCfg) },
		DropAll:      nft.DropAll,
		Services:     routerServices,
		OpenWatchdog: func() (Watchdog, error) { return openDevice() },
		Health:       DefaultHealth(),
		Cmdline:      "/proc/cmdline",
		SysBlock:     "/sys/block",
		Kmsg:         "/dev/kmsg",
		DataDir:      "/data",
		Seed:         "/usr/share/culvert/data.ext4",
		Baked:        "/etc/culvert/settings.json",
		Initial:      "/run/culvert/initial-settings.json",
		Socket:       initctl.Socket,
		Console:      os.Stderr,
		Reboot:       unix.Reboot,
	}
}

func routerMounts() []Mount {
	return []Mount{
		{"proc", "/proc", "proc", nosuid | noexec | nodev, ""},
		{"sysfs", "/sys", "sysfs", nosuid | noexec | nodev, ""},
		{"devtmpfs", "/dev", "devtmpfs", nosuid | noexec, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", nosuid | noexec, "ptmxmode=0666,mode=0620"},
		{"tmpfs", "/run", "tmpfs", nosuid | noexec | nodev, "size=8m,mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", nosuid | nodev, "size=8m,mode=1777"},
	}
}

// routerSysctls are those that must be set before the first link goes up, or
// that are about the kernel itself. The network's own belong to netd.
func routerSysctls() []Sysctl {
	return []Sysctl{
		// A kernel that fell over comes back by itself.
		{"kernel.panic", "5", false},
		{"kernel.panic_on_oops", "1", false},
		// The serial console belongs to the shell; `show log kernel` has it all.
		{"kernel.printk", "3 4 1 3", true},
		{"kernel.sysrq", "0", true},
		{"kernel.dmesg_restrict", "1", true},
		{"kernel.kptr_restrict", "1", true},
		{"fs.protected_symlinks", "1", true},
		{"fs.protected_hardlinks", "1", true},
		// No IPv6, not even a link-local address, before netd decides on it.
		{"net.ipv6.conf.default.disable_ipv6", "1", true},
		{"net.ipv6.conf.all.disable_ipv6", "1", true},
		// Each PPTP call waits for its GRE with two expectations. The kernel's own
		// limit is four for each 256 buckets of conntrack (nf_conntrack_expect_init):
		// six calls on a board of 64 MB, and none of the next for five minutes.
		{"net.netfilter.nf_conntrack_expect_max", "1024", false},
		// Go reserves more address space than it uses; never refuse that.
		{"vm.overcommit_memory", "1", false},
	}
}

// routerServices are netd, which owns the network and the settings, and edge,
// which faces people and the LAN.
func routerServices(env ServiceEnv) []supervise.Service {
	common := []string{
		"PATH=/bbin:/bin", "TERM=vt100",
		"GOGC=50", // RAM is scarcer than time; the limits below are for bad days
		"CULVERT_BOOT_FAILED=" + env.Failed,
	}
	with := func(more ...string) []string { return append(append([]string(nil), common...), more...) }
	return []supervise.Service{
		{
			Name: "netd", Argv: []string{"/bbin/netd"},
			Env: with("HOME=/", "GOMEMLIMIT=16MiB"),
			// Without it there is no router; edge goes first.
			OOMScoreAdj: -800,
			Ready:       supervise.Ready{Socket: apiSock},
			StopTimeout: 10e9, // closes its database
		},
		{
			Name: "edge", Argv: []string{"/bbin/edge"},
			Env: with("HOME="+edgeHome, "GOMEMLIMIT=20MiB", "CULVERT_CONSOLE="+env.Hardware.Console),
			UID: edgeUID, GID: edgeUID, Confine: true,
			// DNS and SSH below port 1024; ping and traceroute.
			Caps:        []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW},
			OOMScoreAdj: -400,
			Nice:        5, // the network first
			Ready:       supervise.Ready{FD: true},
			StopTimeout: 3e9,
		},
	}
}

// openDevice opens /dev/watchdog, which starts it.
func openDevice() (Watchdog, error) {
	d, err := watchdog.Open()
	if err != nil {
		return nil, err
	}
	return device{d}, nil
}

// device adds its name to the library's device.
type device struct{ *watchdog.Device }

func (d device) Name() string { return d.Identity }
