package lab

import "github.com/culvert-fw/culvert/qemu/peers"

// IPsecDaemon starts libreswan in a host with connections of the test's own and
// returns it; conf is a part of ipsec.conf, whose connections are named.
func (l *Lab) IPsecDaemon(h *peers.Host, conf string, names ...string) *peers.Process {
	l.t.Helper()
	p, err := l.pluto(h, conf, "    virtual-private=%v4:192.168.0.0/16", "    uniqueids=no")
	l.check(err)
	l.ends(h, p)
	script := "ipsec whack --listen >/dev/null"
	for _, n := range names { // pluto reads them by itself, in a while
		script += "; for i in $(seq 100); do ipsec whack --status | grep -q '\"" + n + "\"' && break; sleep 0.1; done; ipsec whack --status | grep -q '\"" + n + "\"'"
	}
	l.sh(h, script)
	return p
}
