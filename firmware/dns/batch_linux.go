package dns

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many messages go through one system call at most.
const batchSize = 16

// mmsghdr is struct mmsghdr of recvmmsg(2): a message, and its length.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// batch is the memory of one recvmmsg or sendmmsg. It must not be moved or
// copied once it is in use: the headers point into it.
type batch struct {
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize]unix.Iovec
	addrs [batchSize]unix.RawSockaddrInet6 // or RawSockaddrInet4, which is shorter
	bufs  [batchSize][]byte
	n     int // messages in it
}

// newBatch makes one for messages of size bytes.
func newBatch(size int) *batch {
	b := &batch{}
	space := make([]byte, batchSize*size)
	for i := range b.hdrs {
		b.bufs[i] = space[i*size : (i+1)*size : (i+1)*size]
		b.iovs[i].Base = &b.bufs[i][0]
		b.iovs[i].SetLen(size)
		h := &b.hdrs[i].hdr
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.addrs[i]))
	}
	return b
}

// receive fills the batch with what fd has, without waiting.
func (b *batch) receive(fd uintptr) unix.Errno {
	b.n = 0
	for i := range b.hdrs {
		b.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.hdrs)), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if errno == 0 {
		b.n = int(n)
	}
	return errno
}

// packet is message i of a received batch.
func (b *batch) packet(i int) []byte { return b.bufs[i][:b.hdrs[i].n] }

// from is who sent message i.
func (b *batch) from(i int) netip.AddrPort {
	sa := &b.addrs[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	a := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 {
		a = a.WithZone(strconv.Itoa(int(sa.Scope_id)))
	}
	return netip.AddrPortFrom(a, port)
}

// slot is the memory for the next message to send.
func (b *batch) slot() []byte { return b.bufs[b.n][:0] }

// add makes msg the next message to send; it is in the slot, or stays as it is
// until it is sent. to has the family of the socket.
func (b *batch) add(msg []byte, to *unix.RawSockaddrInet6, tolen uint32) {
	b.addrs[b.n] = *to
	b.hdrs[b.n].hdr.Namelen = tolen
	b.iovs[b.n].Base = &msg[0]
	b.iovs[b.n].SetLen(len(msg))
	b.n++
}

// send sends the batch, in one call unless the kernel refuses one of them, and
// empties it. A message that cannot be sent is lost: who asked asks again.
func (b *batch) send(fd uintptr) {
	for first := 0; first < b.n; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.hdrs[first])), uintptr(b.n-first), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			first += int(n)
		case unix.EINTR:
		default:
			first++
		}
	}
	b.n = 0
}

// sockaddr is a as the kernel has it, in a socket's family.
func sockaddr(a netip.AddrPort, v6 bool) (sa unix.RawSockaddrInet6, n uint32) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], a.Port())
	if v6 {
		sa.Family, sa.Addr = unix.AF_INET6, a.Addr().As16()
		return sa, unix.SizeofSockaddrInet6
	}
	sa.Family = unix.AF_INET
	(*unix.RawSockaddrInet4)(unsafe.Pointer(&sa)).Addr = a.Addr().As4()
	return sa, unix.SizeofSockaddrInet4
}
