package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func init() {
	add("traffic", func(_ context.Context, t Traffic) (any, error) { return t.run() })
}

// Traffic is one run of the kernel's packet generator (Documentation/networking/pktgen.rst): UDP
// that it hands to a device as if it had come in there.
type Traffic struct {
	In       string // device where the packets come in
	Out      string // device to which they must go; empty: they go nowhere
	Packets  int
	Size     int      // bytes of the Ethernet frame without its checksum
	DstMAC   string   // empty: the address of In, or of the bridge that has it
	Src, Dst string   // addresses, "192.168.1.100" or "192.168.1.100-192.168.1.149": one after the other
	SrcPort  string   // "40000", or "40000-49999"
	DstPort  string   //
	Options  []string // further lines for pktgen
}

// Cost is what a run cost.
type Cost struct {
	Packets uint64
	CPU     uint64 // ns that the generator's thread ran, with all that became of the packets
	Arrived uint64 // packets that Out was given
}

const pktgen = "/proc/net/pktgen/"

func (t Traffic) run() (*Cost, error) {
	thread, err := kernelThread("kpktgend_0")
	if err != nil {
		return nil, err
	}
	if err := pgset("kpktgend_0", "rem_device_all", "add_device "+t.In); err != nil {
		return nil, err
	}
	lines, err := t.lines()
	if err != nil {
		return nil, err
	}
	if err := pgset(t.In, lines...); err != nil {
		return nil, err
	}
	c := &Cost{}
	arrived, err := t.arrived()
	if err != nil {
		return nil, err
	}
	cpu, err := onCPU(thread)
	if err != nil {
		return nil, err
	}
	if err := pgset("pgctrl", "start"); err != nil { // returns when all are sent
		return nil, err
	}
	if c.CPU, err = onCPU(thread); err != nil {
		return nil, err
	}
	c.CPU -= cpu
	if c.Arrived, err = t.arrived(); err != nil {
		return nil, err
	}
	c.Arrived -= arrived
	c.Packets, err = sent(t.In)
	return c, err
}

func (t Traffic) lines() ([]string, error) {
	mac := t.DstMAC
	if mac == "" {
		dev := t.In
		if master, err := os.Readlink("/sys/class/net/" + t.In + "/master"); err == nil {
			dev = filepath.Base(master)
		}
		b, err := os.ReadFile("/sys/class/net/" + dev + "/address")
		if err != nil {
			return nil, err
		}
		mac = strings.TrimSpace(string(b))
	}
	lines := []string{
		"xmit_mode netif_receive", "count " + strconv.Itoa(t.Packets), "delay 0", "clone_skb 0", "burst 1",
		"pkt_size " + strconv.Itoa(t.Size), "dst_mac " + mac, "src_mac 02:00:00:00:00:64",
	}
	lines = append(lines, span("src", t.Src)...)
	lines = append(lines, span("dst", t.Dst)...)
	lines = append(lines, span("udp_src", t.SrcPort)...)
	lines = append(lines, span("udp_dst", t.DstPort)...)
	return append(lines, t.Options...), nil
}

// span is pktgen's _min and _max of "FIRST-LAST", or of one value. The end of a range of ports is
// not among them for pktgen, of a range of addresses it is.
func span(name, s string) []string {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	return []string{name + "_min " + first, name + "_max " + last}
}

// pgset writes lines to a file of pktgen, which answers a wrong one in the file's last line.
func pgset(file string, lines ...string) error {
	for _, l := range lines {
		if err := os.WriteFile(pktgen+file, []byte(l+"\n"), 0); err != nil {
			return fmt.Errorf("pktgen: %s: %q: %w", file, l, err)
		}
		if file == "pgctrl" {
			continue
		}
		b, err := os.ReadFile(pktgen + file)
		if err != nil {
			return err
		}
		if i := strings.LastIndex(string(b), "Result:"); i >= 0 && !strings.HasPrefix(string(b)[i:], "Result: OK") {
			return fmt.Errorf("pktgen: %s: %q: %s", file, l, strings.TrimSpace(string(b)[i:]))
		}
	}
	return nil
}

// sent reads how many packets the last run had ("pkts-sofar: N  errors: N").
func sent(dev string) (uint64, error) {
	b, err := os.ReadFile(pktgen + dev)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), "pkts-sofar: ")
	if !ok {
		return 0, fmt.Errorf("pktgen: %s does not say how many it sent:\n%s", dev, b)
	}
	return strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
}

// arrived is how many packets the device that drops them was given: ifb_xmit counts them as
// received and dropped. A VLAN passes them on to the one below.
func (t Traffic) arrived() (uint64, error) {
	if t.Out == "" {
		return 0, nil
	}
	dev := t.Out
	below, err := filepath.Glob("/sys/class/net/" + dev + "/lower_*")
	if err != nil {
		return 0, err
	}
	if len(below) == 1 {
		_, dev, _ = strings.Cut(filepath.Base(below[0]), "_")
	}
	b, err := os.ReadFile("/sys/class/net/" + dev + "/statistics/rx_dropped")
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}
