package lab

import (
	"fmt"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/qemu/peers"
)

// Inner addresses of the servers' tunnels.
const (
	PPTPInner  = "10.11.0.1"
	L2TPInner  = "10.12.0.1"
	IPsecInner = "10.13.0.1"
)

const pppServerOptions = `name vpn
auth
refuse-pap
refuse-chap
refuse-mschap
require-mschap-v2
%s
nobsdcomp
novj
novjccomp
noipv6
mtu 1400
mru 1400
lcp-echo-interval 10
`

// prepPPP removes the distribution's defaults (they ask for a serial line's
// lock) and lets user "home" in with password "secret".
func (l *Lab) prepPPP(h *peers.Host) {
	l.check(h.Write("/etc/ppp/options", "", 0o644))
	l.check(h.Write("/etc/ppp/chap-secrets", "home * secret *\n", 0o600))
}

// PPTPServer starts pptpd; its end of every tunnel is PPTPInner.
func (l *Lab) PPTPServer(h *peers.Host) {
	l.t.Helper()
	l.prepPPP(h)
	l.check(h.Write("/etc/ppp/pptpd-options", fmt.Sprintf(pppServerOptions, "require-mppe-128"), 0o644))
	l.check(h.Write("/etc/pptpd.conf", "option /etc/ppp/pptpd-options\nlocalip "+PPTPInner+"\nremoteip 10.11.0.10-50\n", 0o644))
	l.start(h, "pptpd", "--fg", "--conf", "/etc/pptpd.conf")
}

// Tunnel is a VPN client's session.
type Tunnel struct {
	*peers.Process
	Host   *peers.Host
	Local  string // inner address of the client
	Remote string // inner address of the server
}

// PPTP dials server from h with pptp-linux and waits until PPP is up.
func (l *Lab) PPTP(h *peers.Host, server string) (*Tunnel, error) {
	l.prepPPP(h)
	p, err := h.Start("pppd", "pty", "pptp "+server+" --nolaunchpppd --loglevel 2", "nodetach", "noauth", "user", "home", "password", "secret",
		"require-mppe-128", "nobsdcomp", "nodeflate", "novj", "noipv6", "nodefaultroute", "mtu", "1400", "mru", "1400", "unit", "7", "debug")
	if err != nil {
		return nil, err
	}
	return l.pppUp(h, p)
}

// pppUp waits for the address of ppp7, or for pppd's end.
func (l *Lab) pppUp(h *peers.Host, p *peers.Process) (*Tunnel, error) {
	out, err := h.Run(50*time.Second, "sh", "-c", `end=$(($(date +%s) + 40)); while [ $(date +%s) -lt $end ]; do
 a=$(ip -4 -o addr show dev ppp7 2>/dev/null | sed -n 's/.*inet \([0-9.]*\) peer \([0-9.]*\).*/\1 \2/p')
 [ -n "$a" ] && { echo "$a"; exit 0; }; sleep 0.1; done; exit 1`)
	f := strings.Fields(out)
	if err != nil || len(f) != 2 {
		log, _, _ := p.Log()
		p.Signal(9)
		return nil, fmt.Errorf("%s: PPP did not come up; the client said:\n%s", h.Name, tail(log, 40))
	}
	return answered(&Tunnel{Process: p, Host: h, Local: f[0], Remote: f[1]})
}

// answered waits for the first answer: a client may be ready before its server.
func answered(tu *Tunnel) (*Tunnel, error) {
	out, err := tu.Host.Run(30*time.Second, "sh", "-c", "for i in $(seq 10); do ping -n -c 1 -W 1 -I "+tu.Local+" "+tu.Remote+" && exit 0; done; exit 1")
	if err != nil {
		log, _, _ := tu.Log()
		tu.Signal(9)
		return nil, fmt.Errorf("%s: the tunnel is up and carries nothing:\n%s\nthe client said:\n%s", tu.Host.Name, out, tail(log, 40))
	}
	return tu, nil
}

// Payload sends pings of the given size through the tunnel and wants all back. A
// busy machine loses one now and then, which the router has no part in, so a
// second and a third try count.
func (tu *Tunnel) Payload(count, size int) (err error) {
	for range 3 {
		var out string
		out, err = tu.Host.Run(60*time.Second, "ping", "-n", "-c", fmt.Sprint(count), "-i", "0.2", "-W", "5", "-s", fmt.Sprint(size), "-I", tu.Local, tu.Remote)
		if err == nil && strings.Contains(out, fmt.Sprintf(" %d received", count)) {
			return nil
		}
		err = fmt.Errorf("%s: payload lost, thrice (%v):\n%s", tu.Host.Name, err, out)
	}
	return err
}

// L2TPServer starts xl2tpd as LNS; its end of every tunnel is L2TPInner. more are
// lines of its global settings.
func (l *Lab) L2TPServer(h *peers.Host, more ...string) {
	l.t.Helper()
	l.prepPPP(h)
	l.check(h.Write("/etc/ppp/options.xl2tpd", fmt.Sprintf(pppServerOptions, "nomppe"), 0o644))
	l.check(h.Write("/etc/xl2tpd/lns.conf", `[global]
port = 1701
access control = no
`+strings.Join(more, "\n")+`
[lns default]
ip range = 10.12.0.10-10.12.0.50
local ip = `+L2TPInner+`
require authentication = yes
refuse pap = yes
name = vpn
pppoptfile = /etc/ppp/options.xl2tpd
length bit = yes
`, 0o644))
	l.sh(h, "mkdir -p /run/xl2tpd")
	l.start(h, "xl2tpd", "-D", "-c", "/etc/xl2tpd/lns.conf", "-p", "/run/xl2tpd/lns.pid", "-C", "/run/xl2tpd/lns-control")
}

// L2TP dials server from h with xl2tpd, from UDP port 1701, and waits for PPP.
func (l *Lab) L2TP(h *peers.Host, server string) (*Tunnel, error) {
	l.prepPPP(h)
	if err := h.Write("/etc/ppp/options.lac", "user home\npassword secret\nnoauth\nnomppe\nnobsdcomp\nnodeflate\nnovj\nnoipv6\nnodefaultroute\nmtu 1400\nmru 1400\nunit 7\ndebug\nlogfile /tmp/ppp.log\n", 0o644); err != nil {
		return nil, err
	}
	if err := h.Write("/etc/xl2tpd/lac.conf", "[global]\nport = 1701\naccess control = no\n[lac office]\nlns = "+server+
		"\nname = home\nrequire pap = no\nrequire authentication = no\nautodial = yes\nredial = yes\nredial timeout = 2\nmax redials = 20\npppoptfile = /etc/ppp/options.lac\nlength bit = yes\n", 0o644); err != nil {
		return nil, err
	}
	l.sh(h, "mkdir -p /run/xl2tpd")
	p, err := h.Start("xl2tpd", "-D", "-c", "/etc/xl2tpd/lac.conf", "-p", "/run/xl2tpd/lac.pid", "-C", "/run/xl2tpd/lac-control")
	if err != nil {
		return nil, err
	}
	return l.pppUp(h, p)
}

// pluto starts libreswan's IKE daemon in a host with the connections in conf;
// setup are lines of its own settings.
func (l *Lab) pluto(h *peers.Host, conf string, setup ...string) (*peers.Process, error) {
	if err := h.Write("/etc/ipsec.conf", "config setup\n    logfile=/tmp/pluto.log\n    dumpdir=/tmp\n    ikev1-policy=accept\n"+strings.Join(setup, "\n")+"\n\n"+conf, 0o644); err != nil {
		return nil, err
	}
	if err := h.Write("/etc/ipsec.secrets", ": PSK \"a preshared key for the lab\"\n", 0o600); err != nil {
		return nil, err
	}
	if _, err := h.Shell(30*time.Second, "mkdir -p /run/pluto /var/lib/ipsec/nss; ipsec initnss --nssdir /var/lib/ipsec/nss >/dev/null 2>&1 || true"); err != nil {
		return nil, err
	}
	p, err := h.Start("/usr/libexec/ipsec/pluto", "--nofork", "--stderrlog", "--config", "/etc/ipsec.conf", "--nssdir", "/var/lib/ipsec/nss")
	if err != nil {
		return nil, err
	}
	_, err = h.Run(30*time.Second, "sh", "-c", "for i in $(seq 200); do ipsec whack --status >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1")
	if err != nil {
		log, _, _ := p.Log()
		return nil, fmt.Errorf("%s: pluto does not answer:\n%s", h.Name, tail(log, 40))
	}
	return p, nil
}

// IPsecServer starts libreswan as a responder for clients with any identity;
// each gets an address of its own (IKEv2 configuration payload). encapsulation
// must be "no" for clients with native ESP. more are lines of the connection, by
// default those of a server that leaves rekeying to its clients.
func (l *Lab) IPsecServer(h *peers.Host, addr, encapsulation string, more ...string) {
	l.t.Helper()
	if more == nil {
		more = []string{"ikev2=insist", "rekey=no"}
	}
	l.sh(h, "ip addr replace "+IPsecInner+"/32 dev lo")
	p, err := l.pluto(h, `conn home
    authby=secret
    left=`+addr+`
    leftid=@vpn
    leftsubnet=`+IPsecInner+`/32
    right=%any
    rightaddresspool=10.13.0.10-10.13.0.50
    narrowing=yes
    encapsulation=`+encapsulation+`
    auto=add
    `+strings.Join(more, "\n    ")+`
`)
	l.check(err)
	l.t.Cleanup(func() { l.stop(h, p) })
	l.sh(h, "ipsec whack --listen >/dev/null; ipsec auto --add home")
}

// IPsec connects h to server with libreswan, IKEv2. encapsulation is "yes"
// (NAT-T), "no" (native ESP although there is NAT) or "auto". more are lines of
// the connection.
func (l *Lab) IPsec(h *peers.Host, server, encapsulation string, more ...string) (*Tunnel, error) {
	if more == nil {
		more = []string{"ikev2=insist"}
	}
	if _, err := h.Shell(10*time.Second, "ip addr flush to 10.13.0.0/24"); err != nil { // of a tunnel before
		return nil, err
	}
	p, err := l.pluto(h, `conn office
    authby=secret
    left=%defaultroute
    leftid=@`+h.Name+`
    leftmodecfgclient=yes
    leftsubnet=0.0.0.0/0
    right=`+server+`
    rightid=@vpn
    rightsubnet=`+IPsecInner+`/32
    narrowing=yes
    encapsulation=`+encapsulation+`
    auto=add
    `+strings.Join(more, "\n    ")+`
`)
	if err != nil {
		return nil, err
	}
	out, err := h.Run(60*time.Second, "sh", "-c", "ipsec whack --listen; ipsec auto --add office; timeout 45 ipsec auto --up office")
	if err != nil {
		log, _, _ := p.Log()
		return nil, fmt.Errorf("%s: no tunnel: %w\n%s\npluto said:\n%s", h.Name, err, out, tail(log, 40))
	}
	local, err := h.Shell(10*time.Second, "ip -4 -o addr show | sed -n 's/.*inet \\(10\\.13\\.0\\.[0-9]*\\).*/\\1/p' | head -1")
	if err != nil || strings.TrimSpace(local) == "" {
		return nil, fmt.Errorf("%s: the tunnel has no inner address (%v):\n%s", h.Name, err, out)
	}
	return answered(&Tunnel{Process: p, Host: h, Local: strings.TrimSpace(local), Remote: IPsecInner})
}

// start starts a daemon that runs until the (sub)test ends, and ends the test
// when that fails.
func (l *Lab) start(h *peers.Host, argv ...string) {
	l.t.Helper()
	p, err := h.Start(argv...)
	l.check(err)
	l.t.Cleanup(func() { l.stop(h, p) })
}

// stop ends a daemon and shows what it printed when the test failed.
func (l *Lab) stop(h *peers.Host, p *peers.Process) {
	out, _, _ := p.Log()
	p.Stop()
	if l.t.Failed() {
		l.t.Logf("%s: %s said:\n%s", h.Name, p, tail(out, 60))
	}
}
