package dns

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// askSocket is a socket towards an upstream. It is connected for one question
// and unconnected after it, which is cheaper than a new one and does the same:
// each question has a new random port, and nobody but the upstream is heard, and
// only as long as the question lasts. Its system calls never wait; see turn.
type askSocket struct {
	fd    int
	place int // in firsts.socks
	v6    bool

	f     *flight // nil: idle
	pool  *pool
	up    *upstream
	tick  uint32 // when f began
	wrong int    // answers that were not ours
	msg   [headerLen + nameMax + 4 + optLen]byte
	asked int // bytes of msg that are header and question
}

func newAskSocket(v6 bool) (*askSocket, error) {
	domain := unix.AF_INET
	if v6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &askSocket{fd: fd, v6: v6}, nil
}

// send asks s.up the question of s.f.
func (s *askSocket) send(id uint16) unix.Errno {
	s.asked = copy(s.msg[:], s.f.question)
	put16(s.msg[:], id)
	msg := s.msg[:s.asked]
	if !s.up.noEDNS.Load() {
		msg = (&asker{do: s.f.do}).appendOPT(msg)
	}
	if errno := s.connect(unsafe.Pointer(&s.up.sa), uintptr(s.up.salen)); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&msg[0])), uintptr(len(msg)), unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// receive reads one message, and says EAGAIN when there is none.
func (s *askSocket) receive(buf *[maxUDP]byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(buf)), maxUDP, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// unspec is the address that unconnects a socket: connect(2).
var unspec = unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}

// unconnect gives the port back.
func (s *askSocket) unconnect() unix.Errno {
	return s.connect(unsafe.Pointer(&unspec), unsafe.Sizeof(unspec))
}

func (s *askSocket) connect(sa unsafe.Pointer, n uintptr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(sa), n)
	return errno
}
