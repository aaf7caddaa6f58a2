package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The disks are in the order of their PCI slots: the product's root, this one, /data, settings.
const (
	productDisk = "/dev/vda"
	product     = "/product"
)

// boot prepares what the product takes for its ports, starts the server, and becomes the product's init.
func boot() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/tmp", "tmpfs"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := ports(); err != nil {
		return err
	}
	if err := startServer(); err != nil {
		return err
	}
	if err := unix.Mount(productDisk, product, "squashfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("the product's root on %s: %w", productDisk, err)
	}
	// As switch_root does; the server keeps the root that it has.
	if err := unix.Chdir(product); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the product's root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/init", []string{"/init"}, []string{"HOME=/", "TERM=linux"})
}

// startServer starts this program again, as the server, and waits until it counts.
func startServer() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	server := exec.Command("/guest")
	server.Stderr, server.ExtraFiles = os.Stderr, []*os.File{w}
	if err := server.Start(); err != nil {
		return err
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the measuring program did not start: %w", err)
	}
	return r.Close()
}

// The router's ports: devices that drop what they are given (net/ifb: a packet that no tc action
// sent there) and take what the generator brings.
var portMACs = map[string]net.HardwareAddr{
	"eth0": {0x52, 0x54, 0, 0xc0, 0, 1},
	"eth1": {0x52, 0x54, 0, 0xc0, 0, 2},
}

// wanVLAN is the VLAN below eth1 when the kernel's command line has bench.vlan.
const wanVLAN = 7

// cable makes eth0 one end of a cable and homePort the other.
func cable() error {
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = "eth0", portMACs["eth0"]
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: homePort}); err != nil {
		return fmt.Errorf("cable of eth0: %w", err)
	}
	l, err := netlink.LinkByName(homePort)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// drop makes a device that drops what it is given.
func drop(name string, mac net.HardwareAddr) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = name, mac
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: a}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// ports makes eth0 and eth1. With bench.vlan eth1 is a VLAN
// device on top of the second, wan0; with bench.home eth0 is a cable to homePort.
func ports() error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	vlan, home := hasWord(string(cmdline), "bench.vlan"), hasWord(string(cmdline), "bench.home")
	first, second := "eth0", "eth1"
	if vlan {
		second = "wan0"
	}
	if home {
		first = "unused"
		if err := cable(); err != nil {
			return err
		}
	}
	if err := drop(first, portMACs["eth0"]); err != nil {
		return err
	}
	if err := drop(second, portMACs["eth1"]); err != nil || !vlan {
		return err
	}
	below, err := netlink.LinkByName(second)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(below); err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex = "eth1", below.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: wanVLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
		return fmt.Errorf("VLAN %d: %w", wanVLAN, err)
	}
	return nil
}
