package firewall_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
)

// control is a PPTP control message, RFC 2637 2.
func control(kind uint16, size int, fields ...any) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(size))
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint32(b, 0x1a2b3c4d)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = append(b, 0, 0)
	for _, f := range fields {
		b, _ = binary.Append(b, binary.BigEndian, f)
	}
	return append(b, make([]byte, size-len(b))...)
}

// data is a packet of PPTP's GRE to a call.
func data(call uint16, payload string) []byte {
	b := []byte{0x30, 0x01, 0x88, 0x0b}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint16(b, call)
	return append(append(b, 0, 0, 0, 1), payload...)
}

// TestPPTPServer: the GRE of a call to a server on the LAN follows the control
// connection, in both directions and by another port too, and ends with it.
func TestPPTPServer(t *testing.T) {
	n := newNetwork(t)
	n.set("set firewall vpn-server pptp to " + nasIP + " external-port 4723")
	var l net.Listener
	var err error
	n.nas.Do(func() { l, err = net.Listen("tcp4", nasIP+":1723") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := n.dial(n.wan, wanIP+":4723", hang)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	srv.SetDeadline(time.Now().Add(hang))
	say := func(from, to net.Conn, msg []byte) []byte {
		t.Helper()
		got := make([]byte, len(msg))
		if _, err := from.Write(msg); err == nil {
			_, err = io.ReadFull(to, got)
			if err == nil {
				return got
			}
		}
		t.Fatal("the control connection does not carry a message")
		return nil
	}
	const clientCall, serverCall = 100, 200
	say(client, srv, control(1, 156, uint16(0x100)))
	say(srv, client, control(2, 156, uint16(0x100), uint8(1)))
	asked := say(client, srv, control(7, 168, uint16(clientCall)))
	seen := binary.BigEndian.Uint16(asked[12:]) // the helper may give the call another ID

	atClient, atServer := n.raw(n.wan, unix.IPPROTO_GRE), n.raw(n.nas, unix.IPPROTO_GRE)
	n.send(atClient, wanIP, data(serverCall, "too early"))
	if got := say(srv, client, control(8, 32, uint16(serverCall), seen, uint8(1))); binary.BigEndian.Uint16(got[14:]) != clientCall {
		t.Errorf("the client is told of call %d, not its own", binary.BigEndian.Uint16(got[14:]))
	}
	expected := func(want int) {
		t.Helper()
		var got int
		n.rtr.Do(func() { got, err = (&conntrack.Conn{}).Expectations() })
		if err != nil || got != want {
			t.Errorf("%d expectations, %v; want %d", got, err, want)
		}
	}
	expected(2)
	n.send(atClient, wanIP, data(serverCall, "to the server"))
	if src := n.receive(atServer, "to the server", "too early"); src != "203.0.113.1" {
		t.Errorf("GRE from %s", src)
	}
	expected(0)
	n.send(atServer, "203.0.113.1", data(seen, "to the client"))
	if src := n.receive(atClient, "to the client", ""); src != wanIP {
		t.Errorf("GRE from %s", src)
	}

	n.set("delete firewall vpn-server pptp")
	for _, e := range n.connections() {
		if e.Protocol == unix.IPPROTO_GRE || e.Protocol == unix.IPPROTO_TCP {
			t.Errorf("a connection is left: %+v", e)
		}
	}
	n.send(atClient, wanIP, data(serverCall, "too late"))
	n.set("set firewall vpn-server pptp to " + nasIP)
	probe := n.raw(n.nas, unix.IPPROTO_GRE)
	n.send(n.raw(n.pc, unix.IPPROTO_GRE), nasIP, data(1, "from the neighbour"))
	n.receive(probe, "from the neighbour", "too late")
	n.receive(atServer, "from the neighbour", "too late")
}
