package qemu

import (
	"fmt"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/diagnose"
	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

const (
	pptpOptions = "password secret require-mppe-128 mtu 1400 mru 1400"
	registry    = `Fix: Set on that Windows, and restart it: HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\PolicyAgent, DWORD AssumeUDPEncapsulationContextOnSendRule = 2`
)

// pptp dials a server again and again: some clients try once and end.
func pptp(h *peers.Host, n int, options string) func(*lab.Lab) {
	return shell(h, "while :; do timeout 40 pppd pty 'pptp %s --nolaunchpppd' nodetach noauth user home novj noipv6 nodefaultroute unit %d %s; sleep 2; done", server(n), n, options)
}

// l2tpClient starts xl2tpd for some servers, which it does not call yet.
func l2tpClient(l *lab.Lab, h *peers.Host, list ...int) {
	l.Write(h, "/etc/ppp/options", "")
	l.Write(h, "/etc/ppp/options.lac", "user home\npassword secret\nnoauth\nnomppe\nnoipv6\nnodefaultroute\nmtu 1400\nmru 1400\n")
	conf := "[global]\nport = 1701\naccess control = no\n"
	for _, n := range list {
		conf += fmt.Sprintf("[lac n%d]\nlns = %s\nname = home\nrequire pap = no\nrequire authentication = no\nredial = yes\nredial timeout = 2\nmax redials = 20\npppoptfile = /etc/ppp/options.lac\nlength bit = yes\n", n, server(n))
	}
	l.Write(h, "/etc/xl2tpd/lac.conf", conf)
	l.Sh(h, "mkdir -p /run/xl2tpd")
	l.Start(h, "xl2tpd", "-D", "-c", "/etc/xl2tpd/lac.conf", "-p", "/run/xl2tpd/lac.pid", "-C", "/run/xl2tpd/lac-control")
}

// l2tp calls a server.
func l2tp(h *peers.Host, n int) func(*lab.Lab) {
	return shell(h, "xl2tpd-control -c /run/xl2tpd/lac-control connect-lac n%d", n)
}

// waits is for something to be so in a host.
func waits(h *peers.Host, condition string) func(*lab.Lab) {
	return func(l *lab.Lab) {
		l.Until(condition, 100*time.Second, func() error {
			_, err := h.Shell(10*time.Second, condition)
			return err
		})
	}
}

// watchedComplaints are told at once, of servers of their own.
func watchedComplaints(l *lab.Lab) complaints {
	c1, c2, c3 := l.C[0], l.C[1], l.C[2]
	l2tpClient(l, c1, noL2TPThere, oneAddress)
	l2tpClient(l, c2, manyL2TP)
	l2tpClient(l, c3, manyL2TP)
	// Others that talk to the same servers, and a tunnel that nobody uses.
	l.Sh(c3, fmt.Sprintf("ipsec auto --up n%d", manyL2TP))
	l2tp(c3, manyL2TP)(l)
	shell(c2, "ipsec auto --up n%[1]d; exec xl2tpd-control -c /run/xl2tpd/lac-control connect-lac n%[1]d", manyL2TP)(l)
	dial(c3, manyDevices)(l)
	// The router comes to know both devices of it, which takes a moment, but of the second no SPI.
	shell(c2, "until timeout 20 ipsec auto --up n%[1]d; do sleep 1; done; ipsec auto --down n%[1]d; touch /tmp/known", manyDevices)(l)
	l.Sh(c1, fmt.Sprintf("ipsec auto --up n%[1]d; ping -c 3 -i 0.3 -I 10.14.%[1]d.1 10.13.%[1]d.1", idleIPsec))

	all := complaints{}
	pppComplaints(all, c1)
	ipsecComplaints(all, c1)
	ipsecFaults(all, c1)
	tunnelComplaints(all, l)
	all.add("nothing sent", diagnose.NothingSent, "c3", quietDevice, `c3 sent no packet of a VPN to 198\.51\.100\.37 in (29|30)s\. Fix: Start the VPN on it`, nil)
	all["two devices with native ESP"] = complaint{cause: diagnose.AmbiguousESP, ask: "c2 " + server(manyDevices) + " ipsec",
		says:  `ESP goes both ways, but 198\.51\.100\.32 serves other devices here as well \(c3\): each gets a copy .* Fix: See on the device whether its tunnel counts packets in`,
		ready: waits(c2, "[ -e /tmp/known ]"), try: dial(c2, manyDevices)}
	all["two devices with L2TP in IPsec"] = complaint{cause: diagnose.SharedL2TP, ask: "c3 " + server(manyL2TP) + " l2tp",
		says: `Several devices talk to 198\.51\.100\.33 \(c2 beside c3\): with L2TP in IPsec \(transport mode\) most servers can tell only one .* Fix: Disconnect the other devices, or use IKEv2`,
		// The server sends to who came last.
		ready: waits(c2, "ip -4 -o addr show | grep -q 'peer "+lab.L2TPInner+"'"),
		try:   shell(c3, "exec ping -n -i 0.5 %s", lab.L2TPInner)}
	all["Windows to a server behind NAT"] = complaint{cause: diagnose.WindowsNATT, ask: lab.Admin + " " + server(natServer),
		says: `192\.168\.1\.5 runs Windows and 198\.51\.100\.36 is behind NAT: IKE is answered .* ` + registry + `\. The router in front of the server has to forward UDP 500 and 4500 to it\.`,
		try:  func(l *lab.Lab) { windowsCalls(l, "lan", lab.Admin, server(natServer)) }}
	return all
}

// pppComplaints are those of PPTP and L2TP.
func pppComplaints(all complaints, c1 *peers.Host) {
	add := func(name, cause string, n int, says, options string) {
		all.add(name, cause, "c1", n, says, pptp(c1, n, options))
	}
	add("no server for PPTP", diagnose.Refused, noPPTPThere, `198\.51\.100\.38 answers that it has no service on TCP 1723: no PPTP server runs there, or its firewall refuses\. Fix: Check the server's address`, pptpOptions)
	add("GRE dropped on the way", diagnose.GRESilent, dropsGRE, `The control connection to \S+ is up, but GRE never came back: c1 sent GRE [3-9] times, .* Fix: Let the server's firewall pass IP protocol 47`, pptpOptions)
	add("GRE dropped by the device", diagnose.NoGRE, deviceDrops, `\S+ sends GRE and c1 sends none: .* Fix: Let the firewall on the device pass GRE`, pptpOptions)
	add("wrong password", diagnose.LoginRefused, wrongPassword, `\S+ refuses the user name or the password of c1\. Fix: Correct them`, "password wrong require-mppe-128")
	add("no authentication in common", diagnose.Negotiating, noAgreement, `GRE goes both ways \(.*\), but PPP inside has not come up: .* Fix: Compare the authentication`,
		"password secret refuse-mschap-v2 refuse-mschap refuse-chap refuse-pap")
	add("PPTP that works", diagnose.Up, finePPTP, `^Now start the VPN on c1.* All is well: the tunnel of c1 to 198\.51\.100\.44 is up, GRE carries data both ways .* SEEN PORTS`, pptpOptions)
	all.add("no server for L2TP", diagnose.Unreachable, "c1", noL2TPThere, `198\.51\.100\.39 says: port unreachable about UDP 1701 to 198\.51\.100\.39\. Fix: Check the server's address`, l2tp(c1, noL2TPThere))
	all.add("an L2TP server with several addresses", diagnose.OtherAddress, "c1", oneAddress,
		`c1 calls 198\.51\.100\.48, but 198\.51\.100\.10 answers \(UDP 1701, \d+ packets\): .* Fix: Have the server answer from the address it was called at, or let the device call 198\.51\.100\.10\.`, l2tp(c1, oneAddress))
}

// ipsecComplaints are about what is on the way.
func ipsecComplaints(all complaints, c1 *peers.Host) {
	add := func(name, cause string, n int, says string, sizes ...int) {
		all.add(name, cause, "c1", n, says, dial(c1, n, sizes...))
	}
	add("no answer at all", diagnose.Silent, nobodyThere, `198\.51\.100\.20 does not answer: c1 sent UDP 500 \(IKE_SA_INIT\) \d+ times, first \d+s ago, and nothing came back\. Fix: Check the server's address, that its IPsec server runs`)
	add("UDP 4500 dropped on the way", diagnose.NATTSilent, drops4500, `198\.51\.100\.21 answers IKE on UDP 500, but not on UDP 4500: c1 sent UDP 4500 \(IKE_AUTH\) \d+ times, .* Fix: Let the server's firewall pass UDP 4500`)
	add("ESP dropped on the way", diagnose.ESPSilent, dropsESP, `IKE is done, c1 sent ESP \d+ times, first \d+s ago and no ESP came back: ESP \(IP protocol 50\) is filtered .* Fix: Turn on NAT traversal`)
	add("ESP in UDP dropped on the way", diagnose.UDPESPSilent, dropsUDPESP, `IKE on UDP 4500 is answered, \d+ packets of ESP in UDP went out and none came back: .* Fix: Check the server's firewall`)
	add("a second NAT", diagnose.DoubleNAT, secondNAT, `IKE is done, c1 sent ESP \d+ times, .* and the server sees another address than this router's 203\.0\.113\.\d+: another router with NAT is in front of this one, and passes no ESP\. Fix: Turn on VPN passthrough on that router`)
	add("a path that loses what is large", diagnose.MTU, blackHole,
		`The tunnel of c1 to 198\.51\.100\.30 is up, but large packets get lost in it: those of up to \d+ bytes are answered, those of 1[34]\d\d bytes and more are not .* a path MTU black hole \(RFC 2923\)\. Fix: set wan mtu 1280; commit`, 100, 1300)
	add("a device that ignores the path MTU", diagnose.MTU, narrowPath,
		`203\.0\.113\.1 says by ICMP that packets to 198\.51\.100\.31 must not be larger than 1300 bytes, but c1 goes on sending larger ones .* Fix: Let the firewall on the device pass ICMP type 3 code 4, or lower the MTU of its tunnel to 1200\.`, 100, 1300)
	all.add("AH", diagnose.AHTried, "c1", wantsAH, `c1 tries IPsec with AH \(\d+ packets\), .* cannot cross any NAT, by design .* Fix: Configure ESP instead of AH`, shell(c1, "exec ping -n %s", server(wantsAH)))
	add("IPsec that works", diagnose.Up, fineIPsec, `^Now start the VPN on c1.* All is well: the tunnel of c1 to 198\.51\.100\.34 is up, UDP 4500 carries data both ways .* SEEN PORTS`, 100, 1200)
	all.add("a tunnel that nobody uses", diagnose.Idle, "c1", idleIPsec, `UDP 4500 was answered \(.*\) and nothing more came: the tunnel is idle or has ended\. Fix: Send something through the tunnel`, nil)
}

// ipsecFaults are about servers.
func ipsecFaults(all complaints, c1 *peers.Host) {
	add := func(name, cause string, n int, says string) { all.add(name, cause, "c1", n, says, dial(c1, n)) }
	add("answers from another address", diagnose.OtherAddress, answersBeside, `c1 calls 198\.51\.100\.24, but 198\.51\.100\.124 answers \(UDP 500, \d+ packets\): .* Fix: Have the server answer from the address it was called at, or let the device call 198\.51\.100\.124\.`)
	add("answers from another port", diagnose.OtherPort, answersShift, `198\.51\.100\.25 answers UDP 500 from another port, 1024, than the one that c1 called \(\d+ packets\): .* Fix: Have the server answer from the port it was called at`)
	add("answers that nobody waits for", diagnose.Undelivered, answersLost, `198\.51\.100\.26 answers UDP 4500 \(\d+ packets came to the WAN\), but they match no connection of c1\. Fix: Disconnect the VPN`)
	add("another identity", diagnose.NoTunnel, otherIdentity, `IKE with 198\.51\.100\.27 went through to its last exchange on UDP 4500, and no ESP followed: one end refuses the other's identity, key or certificate, .* Fix: Look in the log of the client`)
	add("a certificate of another time", diagnose.Clock, notYetValid,
		`198\.51\.100\.28 answers IKE, but no tunnel comes of it\. It uses certificates, .* and the router could not set its clock by NTP: .* Fix: Check the date on the device, and on the router: show status`)
	clock := all["a certificate of another time"]
	clock.also = func(l *lab.Lab) {
		// It is the time alone: the authority is trusted, from next year on.
		l.Sh(c1, `v="certutil -d sql:/var/lib/ipsec/nss -V -n ca -u L"; if $v; then exit 1; fi; $v -b $(date -u -d '+18 months' +%y%m%d%H%M%SZ)
grep "NSS: ERROR: IPsec certificate CN=vpn invalid" /tmp/up-n`+fmt.Sprint(notYetValid))
	}
	all["a certificate of another time"] = clock
}

// refusedComplaints are about settings, which are committed first.
func refusedComplaints(l *lab.Lab) complaints {
	c1 := l.C[0]
	l.Commit("set passthrough pptp off", "set passthrough wireguard off", "set passthrough l2tp devices 192.168.1.99", "set firewall vpn-server ipsec to "+l.Address(c1))
	st, err := l.Status()
	l.Check(err)
	all := complaints{}
	all.add("a switch that is off", diagnose.Off, "c1", finePPTP, `PPTP is switched off on this router; c1 sent TCP 1723 .* and was refused\. Fix: set passthrough pptp on; commit`, pptp(c1, finePPTP, pptpOptions))
	all.add("WireGuard is off", diagnose.Off, "c1", fineWireGuard, `WireGuard is switched off on this router; c1 sent WireGuard \(handshake initiation\) to port 7000 .* and was refused\. Fix: set passthrough wireguard on; commit`,
		wireguard(c1, fineWireGuard, false))
	all.add("a device that may not", diagnose.NotAllowed, "c1", noL2TPThere,
		`L2TP is on, but c1 is not among its devices \(passthrough l2tp devices\); c1 sent UDP 1701 \(\w+\) .* and was refused\. Fix: Add it to passthrough l2tp devices, or allow any: set passthrough l2tp devices any; commit`, l2tp(c1, noL2TPThere))
	all["Windows to a server at home"] = complaint{cause: diagnose.WindowsNATT, ask: "c1 " + lab.Stranger, says: `203\.0\.113\.77 runs Windows and c1 is behind NAT: IKE is answered .* ` + registry,
		try: func(l *lab.Lab) { windowsCalls(l, "wan", lab.Stranger, st.WAN.Address.Addr().String()) }}
	return all
}

// unplugged is without a provider.
func unplugged(l *lab.Lab) complaints {
	l.NoUplink()
	l.Carrier("wan", false)
	l.Until("the router to lose its WAN", 20*time.Second, func() error {
		st, err := l.Status()
		if err == nil && st.WAN.Up {
			err = fmt.Errorf("WAN is %+v", st.WAN)
		}
		return err
	})
	all := complaints{}
	all.add("no Internet", diagnose.NoWAN, "c1", fineIPsec, `^The router has no Internet connection, so no VPN can leave\.`, nil)
	return all
}

// sharedAddress is behind a provider with NAT of its own.
func sharedAddress(l *lab.Lab) complaints {
	l.Uplink("100.64.7")
	l.Carrier("wan", true)
	l.Until("the provider's NAT", 90*time.Second, func() error {
		st, err := l.Status()
		if err == nil && !strings.HasPrefix(st.WAN.Address.String(), "100.64.7.") {
			err = fmt.Errorf("WAN is %+v", st.WAN)
		}
		return err
	})
	all := complaints{}
	all.add("carrier-grade NAT", diagnose.CGNAT, "c1", behindCGNAT,
		`IKE is done, c1 sent ESP \d+ times, .* and the WAN address 100\.64\.7\.\d+ is shared by the provider's customers: its carrier-grade NAT \(RFC 6598\) passes no ESP\. Fix: Ask the provider for a public address, or turn on NAT traversal`,
		dial(l.C[0], behindCGNAT))
	return all
}
