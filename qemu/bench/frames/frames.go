// Package frames is a packet generator: it hands frames to a device of this
// network namespace as if they had come in there, and counts the CPU time of all
// that the kernel then does with them. It uses BPF_PROG_TEST_RUN with live frames
// (Documentation/bpf/bpf_prog_run.rst), which forwards inside the system call, so
// that the time of the calling thread is the time of the packets.
package frames

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The flows of Flows are of this many hosts, and each host's have source ports
// from firstPort on. NAT to one address finds a port for each of MaxFlows.
const (
	Hosts     = 1 << hostBits
	MaxFlows  = Hosts * 600
	hostBits  = 6
	firstPort = 1024
)

// none is no counter: the frames are alike.
const none = -1

// Packets hands n copies of a frame, of an even length, to the device with this
// index. It returns the CPU time of one.
func Packets(device int, frame []byte, n int) (time.Duration, error) {
	return send(device, frame, none, n)
}

// Flows is Packets with another flow of UDP in each frame. Flow 0 is of the
// frame's source address, the next of the address after it, and so on through
// Hosts addresses, which have to be in one /24; then of the next source port. It
// sends the flows from first on.
func Flows(device int, frame []byte, first, n int) (time.Duration, error) {
	if last := frame[sourceAt+1]; first+n > MaxFlows || int(last)+Hosts > 256 || binary.BigEndian.Uint16(frame[sumAt:]) < Hosts {
		return 0, fmt.Errorf("frames: flows %d to %d from .%d on: there are %d, of %d addresses that differ in the last byte", first, first+n, last, MaxFlows, Hosts)
	}
	counter, err := newCounter(uint32(first))
	if err != nil {
		return 0, err
	}
	defer unix.Close(counter)
	return send(device, frame, counter, n)
}

func send(device int, frame []byte, counter, n int) (time.Duration, error) {
	program, err := load(program(frame, counter))
	if err != nil {
		return 0, err
	}
	defer unix.Close(program)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pin runtime.Pinner
	defer pin.Unpin()
	frame = append([]byte(nil), frame...)
	context := &xdpMD{dataEnd: uint32(len(frame)), ingress: uint32(device)}
	attr := testRun{
		prog: uint32(program), repeat: uint32(n), flags: liveFrames,
		dataSizeIn: uint32(len(frame)), dataIn: address(&pin, &frame[0]),
		ctxSizeIn: 24, ctxIn: address(&pin, context),
	}
	// A signal would end the call half way.
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i]--
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		return 0, fmt.Errorf("signal mask: %w", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	if _, err := bpf(cmdProgTestRun, &attr); err != nil {
		return 0, fmt.Errorf("send %d frames: %w", n, err)
	}
	ended, err := threadTime()
	return (ended - began) / time.Duration(n), err
}

// threadTime is how long this thread was on a CPU.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("CPU time of the thread: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// UDP is the least Ethernet frame of a UDP packet, without a UDP checksum, which
// IPv4 lets be left out (RFC 768).
func UDP(srcMAC, dstMAC net.HardwareAddr, src, dst netip.AddrPort) []byte {
	const length = 60 // without the frame's own checksum
	b := append(append(make([]byte, 0, length), dstMAC...), srcMAC...)
	b = binary.BigEndian.AppendUint16(b, 0x0800)
	ip := len(b)
	b = append(b, 0x45, 0, 0, length-14, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	var sum uint32
	for i := ip; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[ip+10:], ^uint16(sum+sum>>16))
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, length-14-20)
	return b[:length]
}
