package netd

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/diagnose"
)

// vpnAttempt is a device that sends again and again, as clients do.
type vpnAttempt struct {
	t, whole *testing.T
	r        *testRouter
	out      map[string]net.PacketConn // of the device, by network and address
}

// open makes a raw socket of the device, or a UDP one.
func (v *vpnAttempt) open(network, addr string) net.PacketConn {
	v.t.Helper()
	if c := v.out[network+addr]; c != nil {
		return c
	}
	var c net.PacketConn
	within(v.t, v.r.pc, func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	v.whole.Cleanup(func() { c.Close() }) // later attempts use it too
	v.out[network+addr] = c
	return c
}

// server opens a socket of the server, which answers with what it gets or not
// at all; without it the server's kernel says that nobody listens.
func (v *vpnAttempt) server(network, addr string, answers bool) {
	v.t.Helper()
	var c net.PacketConn
	within(v.t, v.r.isp, func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	v.whole.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if answers {
				c.WriteTo(b[:n], from)
			}
		}
	}()
}

// diagnosed starts what sends, and wants the cause that is told after.
func (v *vpnAttempt) diagnosed(server, protocol, want string, send ...func()) api.Diagnosis {
	v.t.Helper()
	ctx, stop := context.WithTimeout(v.t.Context(), 50*time.Second)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, f := range send {
				f()
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	defer func() { stop(); <-done }()
	var d api.Diagnosis
	if err := v.r.watchVPN(ctx, map[string]any{"device": "192.168.1.10", "server": server, "protocol": protocol}, &d); err != nil {
		v.t.Fatal(err)
	}
	if d.Cause != want || !d.Settled {
		v.t.Errorf("cause %q (settled %v), want %q: %s\n%+v", d.Cause, d.Settled, want, d.Text, d.Evidence)
	}
	return d
}

// watchVPN is a live diagnosis, of an attempt that may have begun.
func (r *testRouter) watchVPN(ctx context.Context, p map[string]any, d *api.Diagnosis) error {
	told := 0
	err := r.api.Stream(ctx, api.MethodDiagnoseWatch, p, func(raw json.RawMessage) error {
		told++
		w := api.Watching{Found: d}
		return json.Unmarshal(raw, &w)
	})
	if err == nil && told != 2 {
		return fmt.Errorf("told %d times, want that it watches and what it found", told)
	}
	return err
}

// raw sends an IP protocol's packets from the device.
func (v *vpnAttempt) raw(protocol, server string, b []byte) func() {
	c := v.open("ip4:"+protocol, "192.168.1.10")
	return func() { c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(server)}) }
}

// udp sends between the same ports.
func (v *vpnAttempt) udp(port int, server string, b []byte) func() {
	c := v.open("udp4", (&net.UDPAddr{IP: net.IPv4(192, 168, 1, 10), Port: port}).String())
	return func() { c.WriteTo(b, &net.UDPAddr{IP: net.ParseIP(server), Port: port}) }
}

// dial tries PPTP's control connection; it stays open until the step ends.
func (v *vpnAttempt) dial(server string) func() {
	return func() {
		v.t.Helper()
		var c net.Conn
		within(v.t, v.r.pc, func() error {
			c, _ = net.DialTimeout("tcp4", server+":1723", 3*time.Second) // refused, mostly
			return nil
		})
		if c != nil {
			v.t.Cleanup(func() { c.Close() })
		}
	}
}

// step is a subtest.
func (v *vpnAttempt) step(name string, f func(*testing.T)) {
	v.whole.Run(name, func(t *testing.T) { v.t = t; f(t) })
}

var (
	espOut = append([]byte{0, 0, 0xab, 0xcd}, make([]byte, 60)...)
	greOut = []byte{0x30, 1, 0x88, 0x0b, 0, 2, 0, 7, 0, 0, 0, 0, 0xc0, 0x21} // a request of LCP
)

// ikeInit is the header of an IKE_SA_INIT.
func ikeInit() []byte {
	b := binary.BigEndian.AppendUint64(nil, 0x1122334455667788)
	b = append(b, make([]byte, 20)...)
	b[16], b[17], b[18], b[19] = 33, 0x20, 34, 8
	return b
}

// TestDiagnose provokes causes with packets of a device and a server that cross
// the router.
func TestDiagnose(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10")
	r.isp.Run("ip", "addr", "add", "198.51.100.0/25", "dev", "lo") // the kernel takes all of it as its own
	v := &vpnAttempt{t: t, whole: t, r: r, out: map[string]net.PacketConn{}}
	// Nobody is at 198.51.100.200: the provider drops it.
	v.step("silent", func(t *testing.T) {
		d := v.diagnosed("198.51.100.200", "", diagnose.Silent, v.udp(500, "198.51.100.200", ikeInit()))
		if len(d.Evidence) != 1 || d.Evidence[0].Part != "udp 500" || d.Evidence[0].PacketsOut < 3 || d.Evidence[0].Ports != "500>500" || d.Protocol != "ipsec" {
			t.Errorf("evidence: %+v", d)
		}
	})
	v.step("refused", func(t *testing.T) { v.diagnosed("198.51.100.12", "", diagnose.Refused, v.dial("198.51.100.12")) })
	v.step("unreachable", func(t *testing.T) {
		v.diagnosed("198.51.100.12", "l2tp", diagnose.Unreachable, v.udp(1701, "198.51.100.12", make([]byte, 20)))
	})
	v.step("other-address", func(t *testing.T) {
		// A host with two addresses, whose server answers from the first.
		var called, first net.PacketConn
		within(t, r.isp, func() (err error) {
			if called, err = net.ListenPacket("udp4", "198.51.100.18:1701"); err == nil {
				first, err = net.ListenPacket("udp4", "198.51.100.19:1701")
			}
			return err
		})
		v.whole.Cleanup(func() { called.Close(); first.Close() })
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := called.ReadFrom(b)
				if err != nil {
					return
				}
				first.WriteTo(b[:n], from)
			}
		}()
		d := v.diagnosed("198.51.100.18", "", diagnose.OtherAddress, v.udp(1701, "198.51.100.18", make([]byte, 20)))
		if !strings.Contains(d.Text, "198.51.100.19 answers (UDP 1701") {
			t.Errorf("%s", d.Text)
		}
	})
	v.step("ah", func(t *testing.T) {
		v.server("ip4:51", "198.51.100.13", false)
		v.diagnosed("198.51.100.13", "", diagnose.AHTried, v.raw("51", "198.51.100.13", make([]byte, 60)))
	})
	v.step("gre-silent", func(t *testing.T) {
		v.server("ip4:47", "198.51.100.14", false)
		var ln net.Listener
		within(v.t, r.isp, func() (err error) { ln, err = net.Listen("tcp4", "198.51.100.14:1723"); return err })
		v.whole.Cleanup(func() { ln.Close() })
		v.dial("198.51.100.14")()
		v.diagnosed("198.51.100.14", "", diagnose.GRESilent, v.raw("47", "198.51.100.14", greOut))
	})
	v.step("esp-silent", func(t *testing.T) {
		v.server("udp4", "198.51.100.15:500", true)
		v.server("ip4:50", "198.51.100.15", false)
		v.diagnosed("198.51.100.15", "ipsec", diagnose.ESPSilent, v.udp(500, "198.51.100.15", ikeInit()), v.raw("50", "198.51.100.15", espOut))
	})
	v.step("natt-silent", func(t *testing.T) {
		v.server("udp4", "198.51.100.16:500", true)
		v.server("udp4", "198.51.100.16:4500", false)
		v.diagnosed("198.51.100.16", "", diagnose.NATTSilent, v.udp(500, "198.51.100.16", ikeInit()), v.udp(4500, "198.51.100.16", append(make([]byte, 4), ikeInit()...)))
	})
	v.step("up", func(t *testing.T) {
		v.server("ip4:50", "198.51.100.17", true)
		d := v.diagnosed("198.51.100.17", "", diagnose.Up, v.raw("50", "198.51.100.17", espOut))
		if len(d.Hints) != 0 {
			t.Errorf("hints about a tunnel that is up: %q", d.Hints)
		}
	})
	v.settings()
}

// settings are what the router itself refuses, and what it remembers.
func (v *vpnAttempt) settings() {
	r := v.r
	v.step("not-allowed", func(t *testing.T) {
		s, base := r.candidate("passthrough l2tp devices 192.168.1.99", "passthrough pptp servers 198.51.100.0/28")
		if _, err := r.commit(base, s, 0); err != nil {
			t.Fatal(err)
		}
		d := v.diagnosed("198.51.100.12", "", diagnose.NotAllowed, v.udp(1701, "198.51.100.12", make([]byte, 20)))
		if d.Protocol != "l2tp" {
			t.Errorf("%+v", d)
		}
		v.diagnosed("198.51.100.17", "pptp", diagnose.NotAllowed)
		v.diagnosed("198.51.100.14", "pptp", diagnose.GRESilent, v.dial("198.51.100.14"), v.raw("47", "198.51.100.14", greOut))
	})
	v.step("off", func(t *testing.T) {
		s, base := r.candidate("passthrough pptp off")
		if _, err := r.commit(base, s, 0); err != nil {
			t.Fatal(err)
		}
		v.diagnosed("198.51.100.14", "", diagnose.Off, v.dial("198.51.100.14"))
	})
	v.step("remembered", func(t *testing.T) {
		// Without watching: what the kernel still knows of before.
		var d api.Diagnosis
		p := map[string]any{"device": "192.168.1.10", "server": "198.51.100.15"}
		if err := r.call(api.MethodDiagnose, p, &d); err != nil || d.Cause != diagnose.ESPSilent || !d.Settled || d.Watched != 0 {
			t.Errorf("%+v, %v", d, err)
		}
		// Who asks for a new attempt is not told of that one.
		v.server("udp4", "198.51.100.15:4500", true)
		v.diagnosed("198.51.100.15", "ipsec", diagnose.Up, v.udp(4500, "198.51.100.15", espOut))
		if err := r.call(api.MethodDiagnose, p, &d); err != nil || d.Cause != diagnose.Idle || d.Settled {
			t.Errorf("the ESP of before is the last attempt still: %+v, %v", d, err)
		}
	})
}

// TestDiagnoseBusy: only so many look at packets at once, and the next may when
// one has ended.
func TestDiagnoseBusy(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	p := map[string]any{"device": "192.168.1.10", "server": "198.51.100.14"}
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	busy := make(chan error, mostDiagnoses+1)
	for range mostDiagnoses + 1 {
		wg.Go(func() { busy <- r.watchVPN(ctx, p, new(api.Diagnosis)) })
	}
	var e *api.Error
	if err := <-busy; !errors.As(err, &e) || e.Code != "busy" {
		t.Errorf("one more than %d: %v", mostDiagnoses, err)
	}
	stop()
	wg.Wait()
	r.until("room for another one", func() error {
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
		defer stop()
		err := r.watchVPN(ctx, p, new(api.Diagnosis))
		if errors.As(err, &e) && e.Code == "busy" {
			return err
		}
		return nil
	})
}

// TestDiagnoseAsked: what cannot be diagnosed is refused.
func TestDiagnoseAsked(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	for _, p := range []map[string]any{
		{"device": "nobody", "server": "198.51.100.14"}, {"device": "10.0.0.1", "server": "198.51.100.14"},
		{"device": "192.168.1.10", "server": "192.168.1.20"}, {"device": "192.168.1.10", "server": "198.51.100.14", "protocol": "ppp"},
	} {
		var e *api.Error
		if err := r.call(api.MethodDiagnose, p, nil); !errors.As(err, &e) || e.Code != "invalid" {
			t.Errorf("%v: %v", p, err)
		}
	}
}
