package netd

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/kernel/conntrack"
	"github.com/culvert-fw/culvert/firmware/plan"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestHolders: a device above its share of conntrack is told of, and what it
// closed is forgotten, but nothing that is open.
func TestHolders(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	r.home("192.168.1.10")
	ct, err := conntrack.New()
	if err != nil {
		t.Fatal(err)
	}
	// As on the smallest board, whatever this machine has.
	d := &daemon{conntrack: ct, planBoard: plan.Board{RAM: 64}, want: &plan.Desired{LAN: plan.LAN{Address: settings.Default().LAN.Address}}}
	share := firewall.Share(64)
	var l net.Listener
	within(t, r.isp, func() (err error) { l, err = net.Listen("tcp4", "203.0.113.1:80"); return err })
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	var open net.Conn
	within(t, r.pc, func() (err error) {
		if open, err = net.Dial("tcp4", "203.0.113.1:80"); err != nil {
			return err
		}
		for range share + 10 {
			c, err := net.Dial("tcp4", "203.0.113.1:80")
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	defer open.Close()
	open.SetDeadline(time.Now().Add(20 * time.Second))
	r.until("the connections are closed", func() error {
		list, err := d.holders()
		if err == nil && (len(list) != 1 || list[0].closed != share+10) {
			err = fmt.Errorf("%+v", list)
		}
		return err
	})
	if got := d.crowds(api.Fill{Used: share + 11, Max: 8192}); len(got) > 0 {
		t.Errorf("closed connections count as held: %q", got)
	}
	if n, err := d.forgetClosed(); err != nil || n != share+10 {
		t.Errorf("%d closed connections forgotten, want %d (%v)", n, share+10, err)
	}
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	within(t, r.pc, func() error {
		c, err := net.ListenPacket("udp4", "192.168.1.10:0")
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range share {
			if _, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 10000 + i}); err != nil {
				return err
			}
		}
		return nil
	})
	if n, err := d.forgetClosed(); err != nil || n != 0 {
		t.Errorf("%d connections forgotten that are not closed (%v)", n, err)
	}
	got := d.crowds(api.Fill{Used: share + 1, Max: 8192})
	if len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("192.168.1.10 holds %d of 8192 connections; new ones may be refused", share+1)) {
		t.Errorf("%q, want that the device holds %d of 8192", got, share+1)
	}
}
