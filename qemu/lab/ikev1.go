package lab

import (
	"fmt"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// innerV1 is the inner address of the n-th client, from 0: IKEv1 hands none out
// without XAUTH.
func innerV1(n int) string { return fmt.Sprintf("10.13.0.%d", 100+n) }

// IPsecServerV1 starts libreswan as an IKEv1 responder (main mode) with native
// ESP for these clients, and for clients with IKEv2 and NAT traversal. more are
// lines of each connection.
func (l *Lab) IPsecServerV1(h *peers.Host, addr string, clients []*peers.Host, more ...string) {
	l.t.Helper()
	l.sh(h, "ip addr replace "+IPsecInner+"/32 dev lo")
	var conf, add strings.Builder
	for i, c := range clients {
		fmt.Fprintf(&conf, `conn %s
    ikev2=never
    authby=secret
    left=%s
    leftid=@vpn
    leftsubnet=%s/32
    right=%%any
    rightid=@%s
    rightsubnet=%s/32
    encapsulation=no
    auto=add
    %s

`, c.Name, addr, IPsecInner, c.Name, innerV1(i), strings.Join(more, "\n    "))
		fmt.Fprintf(&add, "; ipsec auto --add %s", c.Name)
	}
	fmt.Fprintf(&conf, `conn home
    ikev2=insist
    authby=secret
    left=%s
    leftid=@vpn
    leftsubnet=%s/32
    right=%%any
    rightaddresspool=10.13.0.10-10.13.0.50
    narrowing=yes
    encapsulation=auto
    auto=add
    %s
`, addr, IPsecInner, strings.Join(more, "\n    "))
	p, err := l.pluto(h, conf.String())
	l.check(err)
	l.t.Cleanup(func() { l.stop(h, p) })
	l.sh(h, "ipsec whack --listen >/dev/null; ipsec auto --add home"+add.String())
}

// IPsecV1 connects the n-th client to such a server.
func (l *Lab) IPsecV1(h *peers.Host, n int, server string, more ...string) (*Tunnel, error) {
	if _, err := h.Shell(10*time.Second, "ip addr flush to 10.13.0.0/24; ip addr add "+innerV1(n)+"/32 dev lo"); err != nil {
		return nil, err
	}
	p, err := l.pluto(h, `conn office
    ikev2=never
    authby=secret
    left=%defaultroute
    leftid=@`+h.Name+`
    leftsubnet=`+innerV1(n)+`/32
    right=`+server+`
    rightid=@vpn
    rightsubnet=`+IPsecInner+`/32
    encapsulation=no
    auto=add
    `+strings.Join(more, "\n    ")+`
`)
	if err != nil {
		return nil, err
	}
	if out, err := h.Run(60*time.Second, "sh", "-c", "ipsec whack --listen; ipsec auto --add office; timeout 45 ipsec auto --up office"); err != nil {
		log, _, _ := p.Log()
		return nil, fmt.Errorf("%s: no tunnel: %w\n%s\npluto said:\n%s", h.Name, err, out, tail(log, 40))
	}
	return answered(&Tunnel{Process: p, Host: h, Local: innerV1(n), Remote: IPsecInner})
}
