package qemu

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// testOffload has connections that the flowtable carries, past the rules: what
// forbids one must end it at once.
func testOffload(t *testing.T, l *lab.Lab) {
	c1, wan := l.Address(l.C[0]), l.Online().WAN.Address.Addr().String()
	run := func(h *peers.Host, argv ...string) {
		p, err := h.Start(argv...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Stop() })
	}
	var forwards []string
	for _, proto := range []string{"tcp", "udp"} {
		run(l.C[0], "socat", strings.ToUpper(proto)+"4-LISTEN:8007,reuseaddr,fork", "EXEC:cat")
		forwards = append(forwards, "set firewall forward echo-"+proto+" protocol "+proto+" port 8070 to "+c1+" to-port 8007")
	}
	l.Commit(forwards...)
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(proto+" through a port forward", func(t *testing.T) {
			l := l.For(t)
			conn := dialEcho(t, l, proto+"4", wan+":8070")
			offloaded(t, l, proto, wan+":8070", func() error { return echo(conn) })
			l.Commit("delete firewall forward echo-" + proto)
			ended(t, l, proto, wan+":8070", func() error { return echo(conn) })
		})
	}
	t.Run("a VPN's when its switch turns off", func(t *testing.T) {
		l := l.For(t)
		const natt = lab.Server1 + ":4500"
		run(l.S1, "socat", "UDP4-LISTEN:4500,reuseaddr,fork", "EXEC:cat")
		// One socket for all lines, each of which comes back.
		run(l.C[1], "sh", "-c", "(while sleep 0.2; do echo again; done) | socat -T 60 - UDP4:"+natt+" > /tmp/echoes")
		seen := ""
		more := func() error {
			time.Sleep(time.Second) // five lines
			now := l.Sh(l.C[1], "wc -c < /tmp/echoes")
			if now == seen {
				return fmt.Errorf("%s bytes came back, no more than a second ago", strings.TrimSpace(now))
			}
			seen = now
			return nil
		}
		offloaded(t, l, "udp", natt, more)
		l.Commit("set passthrough ipsec off")
		t.Cleanup(func() { l.Commit("set passthrough ipsec on") })
		more() //nolint:errcheck // what was on its way
		ended(t, l, "udp", natt, more)
	})
}

// dialEcho connects from the Internet.
func dialEcho(t *testing.T, l *lab.Lab, network, addr string) net.Conn {
	t.Helper()
	var conn net.Conn
	l.Until("an answer from "+network+" "+addr, 20*time.Second, func() (err error) {
		if conn, err = l.NS.Dial(net.Dialer{Timeout: 3 * time.Second}, network, addr); err != nil {
			return err
		}
		if err = echo(conn); err != nil {
			conn.Close()
		}
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo sends a line and wants it back.
func echo(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	line := []byte(time.Now().Format("15:04:05.000000000\n"))
	if _, err := conn.Write(line); err != nil {
		return err
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != string(line) {
		return fmt.Errorf("sent %q, got %q", line, back)
	}
	return nil
}

// tracked are the router's connections to an address.
func tracked(l *lab.Lab, proto, dst string) ([]api.Connection, error) {
	var all, list []api.Connection
	if err := l.Show("connections", &all); err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Protocol == proto && c.Dst.String() == dst {
			list = append(list, c)
		}
	}
	return list, nil
}

// offloaded uses a connection until the flowtable carries it.
func offloaded(t *testing.T, l *lab.Lab, proto, dst string, use func() error) {
	t.Helper()
	l.Until("offload of "+proto+" "+dst, 30*time.Second, func() error {
		if err := use(); err != nil {
			return err
		}
		list, err := tracked(l, proto, dst)
		if err == nil && (len(list) != 1 || !list[0].Offloaded) {
			err = fmt.Errorf("show connections has %+v", list)
		}
		return err
	})
}

// ended wants that a connection is cut and forgotten.
func ended(t *testing.T, l *lab.Lab, proto, dst string, use func() error) {
	t.Helper()
	if err := use(); err == nil {
		t.Errorf("%s %s still carries data", proto, dst)
	}
	list, err := tracked(l, proto, dst)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Offloaded || c.Bytes > 2000 {
			t.Errorf("the connection is still there: %+v", c)
		}
	}
}
