package qemu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// native are the servers to which ESP goes outside UDP.
var native = []int{dropsESP, secondNAT, behindCGNAT, manyDevices}

// ikev2 has proposals that a slow machine is quick with.
const ikev2 = "ikev2=insist\n    ike=aes_gcm256-sha2_256-dh31\n    esp=aes_gcm256"

// connName is the name of the connection with a server, in libreswan.
func connName(n int) string { return fmt.Sprintf("n%d", n) }

// clientConn is a client's half of a connection, IKEv2 if not said otherwise.
func clientConn(h *peers.Host, n int) string {
	lines := []string{"conn " + connName(n), "left=%defaultroute", fmt.Sprintf("leftid=@%s-%d", h.Name, n), "right=" + server(n), fmt.Sprintf("rightid=@vpn-%d", n),
		"encapsulation=yes", "auto=add"}
	if slices.Contains(native, n) {
		lines[5] = "encapsulation=no"
	}
	inner := []string{fmt.Sprintf("leftsubnet=10.14.%d.1/32", n), fmt.Sprintf("rightsubnet=10.13.%d.1/32", n)}
	switch n {
	case manyL2TP:
		lines = append(lines, "authby=secret", "ikev2=no", "type=transport", "leftprotoport=17/1701", "rightprotoport=17/1701", "pfs=no")
	case manyDevices:
		lines = append(lines, "authby=secret", ikev2, "leftmodecfgclient=yes", "leftsubnet=0.0.0.0/0", inner[1], "narrowing=yes")
	case notYetValid:
		lines = append(lines, "leftauth=secret", "rightauth=rsasig", "rightca=%same", ikev2)
		lines = append(lines, inner...)
	case otherIdentity:
		lines[4] = "rightid=@somebody-else"
		fallthrough
	default:
		lines = append(append(lines, "authby=secret", ikev2), inner...)
	}
	return strings.Join(lines, "\n    ") + "\n"
}

// serverConn is the server's half.
func serverConn(n int) string {
	lines := []string{"conn " + connName(n), "left=" + server(n), fmt.Sprintf("leftid=@vpn-%d", n), "right=%any", "rekey=no", "encapsulation=auto", "auto=add"}
	if slices.Contains(native, n) {
		lines[5] = "encapsulation=no"
	}
	inner := []string{fmt.Sprintf("leftsubnet=10.13.%d.1/32", n), fmt.Sprintf("rightsubnet=10.14.%d.1/32", n)}
	switch n {
	case natServer:
		lines[1] = "left=10.9.9.36"
		lines = append(lines, "authby=secret", "ikev2=no", "type=transport", "leftprotoport=17/1701", "rightprotoport=17/%any")
	case manyL2TP:
		lines = append(lines, "authby=secret", "ikev2=no", "type=transport", "leftprotoport=17/1701", "rightprotoport=17/%any", "rightsubnet=vhost:%priv,%no", "pfs=no", "overlapip=yes")
	case manyDevices:
		lines = append(lines, "authby=secret", ikev2, inner[0], fmt.Sprintf("rightaddresspool=10.13.%d.10-10.13.%d.20", n, n), "narrowing=yes")
	case notYetValid:
		lines = append(lines, "leftauth=rsasig", "rightauth=secret", "leftcert=future", "leftsendcert=always", ikev2)
		lines = append(lines, inner...)
	default:
		lines = append(append(lines, "authby=secret", ikev2), inner...)
	}
	return strings.Join(lines, "\n    ") + "\n"
}

// alone are the servers that one device has a connection with, shared those
// that two have.
var (
	alone = []int{nobodyThere, drops4500, dropsESP, dropsUDPESP, answersBeside, answersShift, answersLost, otherIdentity, notYetValid, secondNAT, blackHole,
		narrowPath, fineIPsec, idleIPsec, behindCGNAT}
	shared = []int{manyDevices, manyL2TP}
)

// ipsecDaemon starts libreswan with some connections.
func ipsecDaemon(l *lab.Lab, h *peers.Host, conn func(n int) string, list ...int) {
	conf, names := "", []string{}
	for _, n := range list {
		conf += conn(n) + "\n"
		names = append(names, connName(n))
	}
	l.IPsecDaemon(h, conf, names...)
}

// ipsecServer starts libreswan on the server.
func ipsecServer(l *lab.Lab) {
	certificate(l)
	ipsecDaemon(l, l.S2, serverConn, slices.Concat([]int{natServer}, alone, shared)...)
}

// ipsecClients starts libreswan on the devices, with all connections. The first
// is a server, too.
func ipsecClients(l *lab.Lab) {
	const home = 0
	c1 := l.C[0]
	ipsecDaemon(l, c1, func(n int) string {
		if n == home {
			return "conn n0\n    left=%defaultroute\n    right=%any\n    authby=secret\n    ikev2=no\n    type=transport\n    leftprotoport=17/1701\n    rightprotoport=17/%any\n    auto=add\n"
		}
		return clientConn(c1, n)
	}, append([]int{home}, alone...)...)
	for _, h := range l.C[1:] {
		ipsecDaemon(l, h, func(n int) string { return clientConn(h, n) }, shared...)
	}
	var script strings.Builder
	for _, n := range alone {
		fmt.Fprintf(&script, "ip addr add 10.14.%d.1/32 dev lo\n", n)
	}
	fmt.Fprintf(&script, `ip xfrm state add src %[1]s dst %[2]s proto ah spi 0x1001 mode transport auth 'hmac(sha256)' 0x%[3]s
ip xfrm policy add src %[1]s dst %[2]s dir out tmpl src %[1]s dst %[2]s proto ah mode transport
`, l.Address(c1), server(wantsAH), strings.Repeat("11", 32))
	l.Sh(c1, script.String())
}

// certificate gives the server one that will hold from next year on, by an
// authority that the device trusts: the authority's own is what is too early,
// as libreswan takes no other from its side.
func certificate(l *lab.Lab) {
	const (
		db   = "-d sql:/var/lib/ipsec/nss"
		init = "mkdir -p /var/lib/ipsec/nss; ipsec initnss --nssdir /var/lib/ipsec/nss >/dev/null\n"
	)
	l.Sh(l.S2, init+`head -c 100 /dev/urandom > /tmp/noise
printf 'y\n0\nn\n' | certutil `+db+` -S -x -n ca -s CN=ca -t CT,C,C -k rsa -g 2048 -z /tmp/noise -m 1 -v 60 -w 12 -2 >/dev/null 2>&1
certutil `+db+` -S -c ca -n future -s CN=vpn --extSAN dns:vpn-`+fmt.Sprint(notYetValid)+` -t ,, -k rsa -g 2048 -z /tmp/noise -m 2 -v 60 -w -1 >/dev/null 2>&1
certutil `+db+` -L -n ca -a > /tmp/ca.pem`)
	ca, err := l.S2.Read("/tmp/ca.pem")
	l.Check(err)
	l.Write(l.C[0], "/tmp/ca.pem", ca)
	l.Sh(l.C[0], init+"certutil "+db+" -A -n ca -t CT,C,C -a -i /tmp/ca.pem")
}

// dial starts a connection of a client, and pings through it when it is up,
// with packets of these sizes in turn.
func dial(h *peers.Host, n int, sizes ...int) func(*lab.Lab) {
	script := fmt.Sprintf("ipsec auto --up n%[1]d 2>&1 | tee /tmp/up-n%[1]d; ", n)
	from := fmt.Sprintf("10.14.%d.1", n)
	if n == manyDevices {
		from = "$(ip -4 -o addr show | sed -n 's/.*inet \\(10\\.13\\.32\\.[0-9]*\\).*/\\1/p' | head -1)"
	}
	if len(sizes) == 0 {
		sizes = []int{100}
	}
	script += "while :; do "
	for _, size := range sizes {
		script += fmt.Sprintf("ping -n -M do -c 1 -W 1 -s %d -I %s 10.13.%d.1; sleep 0.7; ", size, from, n)
	}
	script += "done"
	return shell(h, "%s", script)
}
