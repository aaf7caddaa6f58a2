package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/culvert-fw/culvert/firmware/transcript"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// Uplink makes ISP serve the router's WAN from a /24: its own address there
// is net.1, the router's lease is out of net.50 to net.60.
func (l *Lab) Uplink(net24 string) {
	l.t.Helper()
	l.sh(l.ISP, "ip addr flush dev eth0; ip addr add "+net24+".1/24 dev eth0")
	p, err := l.ISP.Start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--interface=eth0", "--bind-interfaces",
		"--dhcp-authoritative", "--no-ping", fmt.Sprintf("--dhcp-range=%s.50,%s.60,255.255.255.0,10m", net24, net24), "--dhcp-option=option:router,"+net24+".1", "--dhcp-option=option:dns-server,"+net24+".1",
		"--no-resolv", "--no-hosts", "--host-record=www.example.com,"+Server1, "--host-record=vpn.example.com,"+Server2, "--log-dhcp", "--log-facility=-")
	l.check(err)
	l.uplink = p
}

// NoUplink stops what Uplink started.
func (l *Lab) NoUplink() {
	l.t.Helper()
	if l.uplink != nil {
		l.check(l.uplink.Stop())
		l.uplink = nil
	}
}

// Carrier plugs or unplugs the cable of the router's "lan" or "wan" port.
func (l *Lab) Carrier(port string, up bool) {
	l.t.Helper()
	conn, err := net.Dial("unix", l.Router.qmp)
	l.check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	dec := json.NewDecoder(bufio.NewReader(conn))
	for _, cmd := range []string{"", `{"execute":"qmp_capabilities"}`,
		fmt.Sprintf(`{"execute":"set_link","arguments":{"name":%q,"up":%t}}`, port, up)} {
		_, err := conn.Write([]byte(cmd + "\n"))
		l.check(err)
		var reply map[string]any
		for reply["QMP"] == nil && reply["return"] == nil {
			reply = nil
			l.check(dec.Decode(&reply))
			if reply["error"] != nil {
				l.t.Fatalf("QMP %s: %v", cmd, reply["error"])
			}
		}
	}
}

// Login opens an interactive session over SSH, as a person does, and returns
// what it shows until the prompt.
func (l *Lab) Login(addr string, auth ...ssh.AuthMethod) (string, error) {
	old := l.LANAddress
	l.LANAddress = addr
	term, err := l.Shell(auth...)
	l.LANAddress = old
	if err != nil {
		return "", err
	}
	defer term.Close()
	err = term.Exchange("Type . for help", "exit\r", 60*time.Second)
	return strings.ReplaceAll(term.Text(), "\r", ""), err
}

// Standing waits until `show status` has a problem with this text.
func (l *Lab) Standing(text string, limit time.Duration) {
	l.t.Helper()
	l.Until("the problem "+text, limit, func() error {
		st, err := l.Status()
		if err != nil {
			return err
		}
		for _, p := range st.Problems {
			if strings.Contains(p, text) {
				return nil
			}
		}
		return fmt.Errorf("problems are %q", st.Problems)
	})
}

// Gone waits until `show status` has no problem with this text.
func (l *Lab) Gone(text string, limit time.Duration) {
	l.t.Helper()
	l.Until("no more problem "+text, limit, func() error {
		st, err := l.Status()
		if err != nil {
			return err
		}
		for _, p := range st.Problems {
			if strings.Contains(p, text) {
				return fmt.Errorf("it says: %s", p)
			}
		}
		return nil
	})
}

// Ping pings once and tells whether it came back.
func (l *Lab) Ping(h *peers.Host, addr string) error {
	_, err := h.Run(10*time.Second, "ping", "-n", "-c", "1", "-W", "2", addr)
	return err
}

// AdminAddress gives the test another address on the LAN.
func (l *Lab) AdminAddress(prefix string) {
	l.t.Helper()
	l.check(l.NS.Exec("ip", "addr", "replace", prefix, "dev", "lan"))
}

// CutOff runs a command that moves the LAN away under its own session, and
// returns what came back within 15 s.
func (l *Lab) CutOff(command string) string {
	s, drop, err := l.Router.session()
	if err != nil {
		return err.Error()
	}
	defer drop()
	var out transcript.Buffer
	s.Stdout, s.Stderr = &out, &out
	limit := time.AfterFunc(15*time.Second, drop)
	defer limit.Stop()
	s.Run(command) // cut off, or done
	return out.String()
}

// ListenUDP opens a socket of the test on one side, "lan" or "wan".
func (l *Lab) ListenUDP(side, addr string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, side),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	var pc net.PacketConn
	err := l.NS.Do(func() (err error) {
		pc, err = lc.ListenPacket(context.Background(), "udp4", addr)
		return err
	})
	return pc, err
}

// Shell opens an interactive session over SSH.
func (l *Lab) Shell(auth ...ssh.AuthMethod) (*Terminal, error) {
	if auth == nil {
		auth = []ssh.AuthMethod{ssh.PublicKeys(l.Key)}
	}
	c, err := l.ssh(l.LANAddress, auth...)
	if err != nil {
		return nil, err
	}
	s, err := c.NewSession()
	if err == nil {
		err = s.RequestPty("xterm", 24, 200, nil)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return NewTerminal(s, c)
}
