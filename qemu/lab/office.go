package lab

import (
	"fmt"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// The subnet of an office, and a host in it that echoes TCP on port 7.
const (
	OfficeSubnet = "10.20.0.0/16"
	OfficeHost   = "10.20.0.5"
)

// Office makes h, which has the address addr, the IPsec gateway of an office for
// a LAN that another gateway comes from.
func (l *Lab) Office(h *peers.Host, addr, lan string) {
	l.t.Helper()
	l.sh(h, "ip addr replace "+OfficeHost+"/32 dev lo")
	p, err := l.pluto(h, `conn lan
    authby=secret
    left=`+addr+`
    leftid=@office
    leftsubnet=`+OfficeSubnet+`
    right=%any
    rightid=@gateway
    rightsubnet=`+lan+`
    ikev2=insist
    encapsulation=no
    auto=add
`)
	l.check(err)
	l.t.Cleanup(func() { l.stop(h, p) })
	l.sh(h, "ipsec whack --listen >/dev/null; ipsec auto --add lan")
	// Not PIPE: socat would wait for room in the pipe that it has to empty.
	l.start(h, "socat", "TCP-LISTEN:7,bind="+OfficeHost+",fork,reuseaddr", "EXEC:cat,nofork")
}

// Gateway gives h, a LAN host, a tunnel of its LAN to the office at addr, and
// lets it forward.
func (l *Lab) Gateway(h *peers.Host, addr, lan string) *peers.Process {
	l.t.Helper()
	l.sh(h, "sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0")
	p, err := l.pluto(h, `conn office
    authby=secret
    left=%defaultroute
    leftid=@gateway
    leftsubnet=`+lan+`
    right=`+addr+`
    rightid=@office
    rightsubnet=`+OfficeSubnet+`
    ikev2=insist
    encapsulation=no
    auto=add
`)
	l.check(err)
	l.t.Cleanup(func() { l.stop(h, p) })
	out, err := h.Run(60*time.Second, "sh", "-c", "ipsec whack --listen; ipsec auto --add office; timeout 45 ipsec auto --up office")
	if err != nil {
		l.t.Fatalf("%s: no tunnel: %v\n%s", h.Name, err, out)
	}
	return p
}

// LeaseRoutes is Lease for a host that takes option 121, RFC 3442.
func (l *Lab) LeaseRoutes(h *peers.Host) string {
	l.t.Helper()
	l.check(h.Write("/tmp/routes.script", `#!/bin/sh
/etc/udhcpc/default.script "$@"
[ -n "$ip" ] && set -- $staticroutes && while [ $# -ge 2 ]; do ip route replace "$1" via "$2" dev eth0; shift 2; done
exit 0
`, 0o755))
	return l.lease(h, "-O 121 -s /tmp/routes.script")
}

// lease runs udhcpc with these arguments.
func (l *Lab) lease(h *peers.Host, args string) string {
	l.t.Helper()
	out := l.sh(h, fmt.Sprintf(`udhcpc -i eth0 -q -n -t 10 -T 2 -x hostname:%s %s >/tmp/udhcpc.log 2>&1 || { cat /tmp/udhcpc.log; exit 1; }
ip -4 -o addr show dev eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p'`, h.Name, args))
	l.addrs[h.Name] = strings.TrimSpace(out)
	return l.addrs[h.Name]
}
