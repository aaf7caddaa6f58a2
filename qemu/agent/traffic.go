package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// traffic is a host's raw ESP and IKE, see peers.Traffic.
type traffic struct {
	mu       sync.Mutex
	esp, ike map[string]net.PacketConn // by own address
	counts   peers.Counts
}

func (t *traffic) do(data []byte) peers.Reply {
	var want peers.Traffic
	err := json.Unmarshal(data, &want)
	for _, a := range want.Listen {
		if err == nil {
			err = t.listen(a)
		}
	}
	if err == nil {
		err = t.send(want)
	}
	if err != nil {
		return peers.Reply{Err: err.Error()}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out, err := json.Marshal(t.counts)
	if err != nil {
		return peers.Reply{Err: err.Error()}
	}
	return peers.Reply{Out: out}
}

func (t *traffic) listen(addr string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.esp == nil {
		t.esp, t.ike, t.counts = map[string]net.PacketConn{}, map[string]net.PacketConn{}, peers.Counts{}
	}
	if t.esp[addr] != nil {
		return nil
	}
	esp, err := net.ListenPacket("ip4:50", addr)
	if err != nil {
		return err
	}
	ike, err := net.ListenPacket("udp4", net.JoinHostPort(addr, "500"))
	if err != nil {
		esp.Close()
		return err
	}
	t.esp[addr], t.ike[addr] = esp, ike
	go t.count(addr, "", esp, 0)
	go t.count(addr, " ike", ike, 4) // the low half of the initiator's SPI
	return nil
}

// count counts what comes to addr by the SPI at an offset.
func (t *traffic) count(addr, suffix string, c net.PacketConn, offset int) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		host := from.String()
		if u, ok := from.(*net.UDPAddr); ok {
			if host = u.IP.String(); u.Port != 500 {
				host += fmt.Sprintf(":%d", u.Port)
			}
		}
		if n < offset+4 {
			continue
		}
		key := addr + " " + host + suffix
		t.mu.Lock()
		if t.counts[key] == nil {
			t.counts[key] = map[uint32]int{}
		}
		t.counts[key][binary.BigEndian.Uint32(b[offset:])]++
		t.mu.Unlock()
	}
}

// send sends in bursts: the timer of a small machine is coarse.
func (t *traffic) send(want peers.Traffic) error {
	const burst = 10
	sent := 0
	for _, f := range want.Flights {
		to := net.ParseIP(f.To)
		t.mu.Lock()
		c, dst := t.esp[f.From], net.Addr(&net.IPAddr{IP: to})
		if f.IKE {
			c, dst = t.ike[f.From], &net.UDPAddr{IP: to, Port: 500}
		}
		t.mu.Unlock()
		if c == nil {
			return fmt.Errorf("nothing listens at %s", f.From)
		}
		for _, spi := range f.SPIs {
			if _, err := c.WriteTo(packet(f.IKE, spi), dst); err != nil {
				return err
			}
			if sent++; sent%burst == 0 {
				time.Sleep(want.Pause(burst))
			}
		}
	}
	return nil
}

// packet is ESP, or the header of an IKE_SA_INIT (RFC 7296 3.1).
func packet(ike bool, spi uint32) []byte {
	if !ike {
		b := make([]byte, 64)
		binary.BigEndian.PutUint32(b, spi)
		return b
	}
	b := make([]byte, 28)
	b[3] = 1
	binary.BigEndian.PutUint32(b[4:], spi)
	b[16], b[17], b[18], b[19] = 33, 0x20, 34, 8
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
	return b
}
