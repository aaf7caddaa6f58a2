package frames

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of the bpf system call (include/uapi/linux/bpf.h).
const (
	cmdMapCreate   = 0
	cmdMapUpdate   = 2
	cmdProgLoad    = 5
	cmdProgTestRun = 10
	mapArray       = 2
	progXDP        = 6
	liveFrames     = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
)

// testRun is the part of union bpf_attr for BPF_PROG_TEST_RUN.
type testRun struct {
	prog, _    uint32 // what it returned
	dataSizeIn uint32
	_          uint32 // of what comes out, as all that is left out here
	dataIn     uint64
	_          uint64
	repeat, _  uint32
	ctxSizeIn  uint32
	_          uint32
	ctxIn      uint64
	_          uint64
	flags, _   uint32 // CPU
	_, _       uint32 // batch size: the kernel's
}

// xdpMD is struct xdp_md: what the program is told of a frame.
type xdpMD struct {
	_, dataEnd, _ uint32 // data, data_meta
	ingress       uint32
	_, _          uint32 // queue, egress
}

func bpf[T any](cmd uintptr, attr *T) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EAGAIN: // the verifier, when a signal came
		default:
			return 0, errno
		}
	}
}

// address is that of the first byte of b, for a struct of the kernel; pin keeps
// it where it is.
func address[T any](pin *runtime.Pinner, b *T) uint64 {
	pin.Pin(b)
	return uint64(uintptr(unsafe.Pointer(b)))
}

// newCounter makes an array map of one 32-bit number.
func newCounter(first uint32) (int, error) {
	attr := struct{ kind, key, value, entries, flags uint32 }{mapArray, 4, 4, 1, 0}
	fd, err := bpf(cmdMapCreate, &attr)
	if err != nil {
		return 0, fmt.Errorf("BPF map: %w", err)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	element := struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(fd), key: address(&pin, new(uint32)), value: address(&pin, &first)}
	if _, err := bpf(cmdMapUpdate, &element); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("BPF map: %w", err)
	}
	return fd, nil
}

// load gives the kernel a program.
func load(program []uint64) (int, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	license := []byte("BSD\x00")
	attr := struct {
		kind, count       uint32
		program, license  uint64
		logLevel, logSize uint32
		logBuf            uint64
	}{kind: progXDP, count: uint32(len(program)), program: address(&pin, &program[0]), license: address(&pin, &license[0])}
	fd, err := bpf(cmdProgLoad, &attr)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return 0, fmt.Errorf("missing capability: BPF in this kernel, as root: %w", err)
	}
	if err != nil {
		return 0, fmt.Errorf("BPF program: %w", err)
	}
	return fd, nil
}

// instruction is one of BPF, as the kernel wants it in memory.
func instruction(code, dst, src byte, offset int16, immediate int32) uint64 {
	registers := src<<4 | dst
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		registers = dst<<4 | src // they are bit fields
	}
	b := []byte{code, registers}
	b = binary.NativeEndian.AppendUint16(b, uint16(offset))
	b = binary.NativeEndian.AppendUint32(b, uint32(immediate))
	return binary.NativeEndian.Uint64(b)
}

// Where in a frame.
const (
	sumAt    = 14 + 10 // of the IPv4 header
	sourceAt = 14 + 12 + 2
	portAt   = 14 + 20
)

// program writes the frame anew, because the kernel uses the same few buffers
// again and the router has changed what is in them, and hands it on. With a
// counter each frame is of another flow: its low bits are added to the source
// address, the rest is the UDP source port.
func program(frame []byte, counter int) []uint64 {
	var flow []uint64
	if counter >= 0 {
		source := int32(binary.BigEndian.Uint16(frame[sourceAt:]))
		sum := int32(binary.BigEndian.Uint16(frame[sumAt:]))
		flow = []uint64{
			instruction(0xbf, 8, 7, 0, 0),         // r8 = the counter
			instruction(0x57, 8, 0, 0, Hosts-1),   // r8 %= Hosts: which host
			instruction(0xbf, 9, 8, 0, 0),         // r9 = r8
			instruction(0x07, 9, 0, 0, source),    // r9 += address
			instruction(0xdc, 9, 0, 0, 16),        // r9 in network order
			instruction(0x6b, 2, 9, sourceAt, 0),  // the address
			instruction(0xb7, 9, 0, 0, sum),       // r9 = checksum
			instruction(0x1f, 9, 8, 0, 0),         // r9 -= r8, which the address has more
			instruction(0xdc, 9, 0, 0, 16),        // r9 in network order
			instruction(0x6b, 2, 9, sumAt, 0),     // the checksum
			instruction(0xbf, 8, 7, 0, 0),         // r8 = the counter
			instruction(0x77, 8, 0, 0, hostBits),  // r8 /= Hosts
			instruction(0x07, 8, 0, 0, firstPort), // r8 += the first port
			instruction(0x6b, 2, 8, portAt, 0),    // the port
			instruction(0x07, 7, 0, 0, 1),         // r7++
			instruction(0x63, 0, 7, 0, 0),         // the counter = r7
		}
	}
	p := []uint64{instruction(0xbf, 6, 1, 0, 0)} // r6 = context
	skip := int16(len(frame)/2 + len(flow))      // over what comes after the checks
	if counter >= 0 {
		p = append(p,
			instruction(0x62, 10, 0, -4, 0),            // key on the stack: 0
			instruction(0x18, 1, 1, 0, int32(counter)), // r1 = the map,
			instruction(0, 0, 0, 0, 0),                 // its second half
			instruction(0xbf, 2, 10, 0, 0),             // r2 = stack
			instruction(0x07, 2, 0, 0, -4),             // r2 -= 4: the key
			instruction(0x85, 0, 0, 0, 1),              // r0 = map_lookup_elem(r1, r2)
			instruction(0x15, 0, 0, skip+6, 0),         // nothing: to the end
			instruction(0x61, 7, 0, 0, 0),              // r7 = the counter
		)
	}
	p = append(p,
		instruction(0x61, 2, 6, 0, 0),                 // r2 = data
		instruction(0x61, 3, 6, 4, 0),                 // r3 = its end
		instruction(0xbf, 4, 2, 0, 0),                 // r4 = data
		instruction(0x07, 4, 0, 0, int32(len(frame))), // r4 += the frame
		instruction(0x2d, 4, 3, skip, 0),              // outside: to the end
	)
	for i := 0; i < len(frame); i += 2 { // by two bytes: nothing more is aligned behind Ethernet's header
		p = append(p, instruction(0x6a, 2, 0, int16(i), int32(binary.NativeEndian.Uint16(frame[i:]))))
	}
	const xdpPass = 2
	return append(append(p, flow...), instruction(0xb7, 0, 0, 0, xdpPass), instruction(0x95, 0, 0, 0, 0))
}
