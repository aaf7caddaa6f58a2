package qemu

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// tunnelServers starts WireGuard, OpenVPN and a web server, none but the last at
// its usual port.
func tunnelServers(l *lab.Lab) {
	ca := authority(l)
	for _, h := range []*peers.Host{l.S1, l.C[0]} {
		l.Write(h, "/etc/vpn-ca.pem", ca.certificate)
		cert, key := ca.sign(l, h.Name)
		l.Write(h, "/etc/vpn-cert.pem", cert)
		l.Write(h, "/etc/vpn-key.pem", key)
		l.Sh(h, "umask 077; wg genkey > /etc/wg-key; openvpn --genkey secret /etc/vpn-static") // each its own: the ends differ
	}
	key, err := l.C[0].Read("/etc/wg-key")
	l.Check(err)
	l.Write(l.S1, "/etc/wg-c1-key", key)
	l.Sh(l.S1, fmt.Sprintf(`ip link add wg0 type wireguard; ip addr add 10.15.%[1]d.1/24 dev wg0; ip link set wg0 up
wg set wg0 listen-port 7000 private-key /etc/wg-key peer $(wg pubkey < /etc/wg-c1-key) allowed-ips 10.15.%[1]d.2/32; wg pubkey < /etc/wg-key > /etc/wg-public`, fineWireGuard))
	public, err := l.S1.Read("/etc/wg-public")
	l.Check(err)
	l.Write(l.C[0], "/etc/wg-server", public)
	tls := "--tls-server --dh none --ca /etc/vpn-ca.pem --cert /etc/vpn-cert.pem --key /etc/vpn-key.pem --dev-type tun --verb 3"
	l.Start(l.S1, "sh", "-c", fmt.Sprintf("exec openvpn --dev ov1 --local %[2]s --port 7001 --ifconfig 10.16.%[1]d.1 10.16.%[1]d.2 %[3]s", fineOpenVPN, server(fineOpenVPN), tls))
	l.Start(l.S1, "sh", "-c", fmt.Sprintf("exec openvpn --dev ov2 --local %s --port 7001 --tls-crypt /etc/vpn-static %s", server(otherKey), tls))
	l.Sh(l.S1, "cat /etc/vpn-cert.pem /etc/vpn-key.pem > /etc/web.pem")
	l.Start(l.S1, "socat", "openssl-listen:443,bind="+server(webServer)+",fork,reuseaddr,cert=/etc/web.pem,verify=0", `system:read x; printf 'HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n'`)
}

// wireguard starts a tunnel anew; known tells whether the server has the key.
func wireguard(h *peers.Host, n int, known bool) func(*lab.Lab) {
	key := "/etc/wg-key"
	if !known {
		key = "/etc/wg-other-key"
	}
	return shell(h, `[ -e %[3]s ] || wg genkey > %[3]s
ip link del wg%[1]d 2>/dev/null; ip link add wg%[1]d type wireguard; wg set wg%[1]d private-key %[3]s peer $(cat /etc/wg-server) endpoint %[2]s:7000 allowed-ips 10.15.%[1]d.1/32
ip addr add 10.15.%[1]d.2/24 dev wg%[1]d; ip link set wg%[1]d up; exec ping -n -i 0.5 10.15.%[1]d.1`, n, server(n), key)
}

// openvpn calls a server; more are options.
func openvpn(h *peers.Host, n int, more string) func(*lab.Lab) {
	return shell(h, `openvpn --dev ov%[1]d --dev-type tun --remote %[2]s 7001 --nobind --ifconfig 10.16.%[1]d.2 10.16.%[1]d.1 --tls-client --ca /etc/vpn-ca.pem --cert /etc/vpn-cert.pem --key /etc/vpn-key.pem %[3]s &
exec ping -n -i 0.5 10.16.%[1]d.1`, n, server(n), more)
}

// tunnelComplaints are those of SSTP, OpenVPN and WireGuard.
func tunnelComplaints(all complaints, l *lab.Lab) {
	c1 := l.C[0]
	all.add("WireGuard that works", diagnose.Up, "c1", fineWireGuard, `All is well: the tunnel of c1 to 198\.51\.100\.49 is up, WireGuard carries data both ways .* wireguard \d+>7000`, wireguard(c1, fineWireGuard, true))
	all.add("WireGuard with a key that nobody knows", diagnose.Silent, "c1", otherWireGuard,
		`198\.51\.100\.50 does not answer: c1 sent WireGuard \(handshake initiation\) to port 7000 [3-9] times, .* Fix: .* WireGuard is silent, too, when it does not know the device's public key`, wireguard(c1, otherWireGuard, false))
	all.add("OpenVPN that works", diagnose.Up, "c1", fineOpenVPN, `All is well: the tunnel of c1 to 198\.51\.100\.51 is up, OpenVPN carries data both ways .* openvpn \d+>7001`, openvpn(c1, fineOpenVPN, ""))
	all.add("OpenVPN with another key file", diagnose.Silent, "c1", otherKey,
		`198\.51\.100\.52 does not answer: c1 sent OpenVPN \(P_CONTROL_HARD_RESET_CLIENT_V2\) to port 7001 [3-9] times, .* Fix: .* With tls-auth or tls-crypt a server is silent, too`, openvpn(c1, otherKey, "--tls-crypt /etc/vpn-static"))
	https := func(n int) func(*lab.Lab) {
		return shell(c1, "while :; do curl -sk --max-time 10 -X SSTP_DUPLEX_POST https://%s/; sleep 3; done", server(n))
	}
	all.add("a web server for SSTP", diagnose.NoTunnel, "c1", webServer, `198\.51\.100\.53 answers on TCP 443, but the connection ended again .*: a web server without SSTP runs there, or it refuses the login\. Fix: Check the server's name`, https(webServer))
	all.add("no server for SSTP", diagnose.Refused, "c1", noSSTPThere, `198\.51\.100\.54 answers that it has no service on TCP 443: no SSTP server runs there`, https(noSSTPThere))
}

// signer is a certificate authority.
type signer struct {
	certificate string // PEM
	parsed      *x509.Certificate
	key         *ecdsa.PrivateKey
}

func authority(l *lab.Lab) signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	l.Check(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	l.Check(err)
	return signer{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), c, key}
}

func (s signer) sign(l *lab.Lab, name string) (certificate, key string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	l.Check(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: s.parsed.NotBefore, NotAfter: s.parsed.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, s.parsed, &k.PublicKey, s.key)
	l.Check(err)
	b, err := x509.MarshalPKCS8PrivateKey(k)
	l.Check(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))
}
