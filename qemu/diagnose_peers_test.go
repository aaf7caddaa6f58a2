package qemu

import (
	"fmt"
	"strings"

	"github.com/culvert-fw/culvert/qemu/lab"
	"github.com/culvert-fw/culvert/qemu/peers"
)

// Addresses of servers, by what is wrong with them or with the way to them.
const (
	nobodyThere    = 20
	drops4500      = 21
	dropsESP       = 22
	dropsUDPESP    = 23
	answersBeside  = 24 // from another address
	answersShift   = 25 // from another port
	answersLost    = 26 // to another port
	otherIdentity  = 27
	notYetValid    = 28 // its certificate
	secondNAT      = 29 // in front of this router
	blackHole      = 30
	narrowPath     = 31 // and the device does not hear of it
	manyDevices    = 32
	manyL2TP       = 33
	fineIPsec      = 34
	wantsAH        = 35
	natServer      = 36
	quietDevice    = 37
	noPPTPThere    = 38
	noL2TPThere    = 39
	dropsGRE       = 40
	deviceDrops    = 41
	wrongPassword  = 42
	noAgreement    = 43
	finePPTP       = 44
	idleIPsec      = 46
	behindCGNAT    = 47
	oneAddress     = 48 // its L2TP server answers from the host's first address
	fineWireGuard  = 49
	otherWireGuard = 50 // does not know the device
	fineOpenVPN    = 51
	otherKey       = 52 // of tls-crypt
	webServer      = 53 // where SSTP is looked for
	noSSTPThere    = 54
)

// troubles gives the servers their addresses, and the provider its faults.
func troubles(l *lab.Lab) {
	add := func(h *peers.Host, list ...int) {
		var script strings.Builder
		for _, n := range list {
			fmt.Fprintf(&script, "ip addr add %s/24 dev eth0; ip addr add 10.13.%d.1/32 dev lo\n", server(n), n)
		}
		l.Sh(h, script.String())
	}
	add(l.S1, dropsGRE, deviceDrops, wrongPassword, noAgreement, finePPTP, oneAddress, fineWireGuard, otherWireGuard, fineOpenVPN, otherKey, webServer)
	add(l.S2, nobodyThere, drops4500, dropsESP, dropsUDPESP, answersBeside, answersShift, answersLost, otherIdentity, notYetValid, secondNAT, blackHole,
		narrowPath, manyDevices, manyL2TP, fineIPsec, wantsAH, quietDevice, noPPTPThere, noL2TPThere, noSSTPThere, idleIPsec, behindCGNAT)
	l.Sh(l.S2, "ip addr add 10.9.9.36/32 dev lo")
	l.Write(l.ISP, "/etc/faults.nft", strings.NewReplacer(
		"NOBODY", server(nobodyThere), "NO4500", server(drops4500), "NOESP", server(dropsESP)+", "+server(secondNAT)+", "+server(behindCGNAT), "NOUDPESP", server(dropsUDPESP),
		"BESIDE", server(answersBeside), "SHIFT", server(answersShift), "LOST", server(answersLost), "HOLE", server(blackHole), "NOGRE", server(dropsGRE),
		"SECOND", server(secondNAT), "NATTED", server(natServer),
	).Replace(`table ip faults {
 chain rewrite { type filter hook prerouting priority -350;
  ip saddr BESIDE udp sport 500 ip saddr set 198.51.100.124
  ip saddr SHIFT udp sport 500 udp sport set 1024
  ip saddr LOST udp sport 4500 udp dport set 4501
 }
 chain in { type nat hook prerouting priority dstnat; ip daddr NATTED dnat to 10.9.9.36; }
 chain out { type nat hook postrouting priority srcnat; ip daddr SECOND masquerade; }
 chain forward { type filter hook forward priority 0;
  ip daddr NOBODY drop
  ip daddr NO4500 udp dport 4500 drop
  ip protocol esp ip saddr { NOESP } drop
  ip protocol esp ip daddr { NOESP } drop
  ip saddr NOUDPESP udp sport 4500 @th,64,32 != 0 drop
  ip daddr NOUDPESP udp dport 4500 @th,64,32 != 0 drop
  ip saddr HOLE meta length > 1300 drop
  ip daddr HOLE meta length > 1300 drop
  ip protocol gre ip saddr NOGRE drop
  ip protocol gre ip daddr NOGRE drop
 }
}
`))
	l.Sh(l.ISP, fmt.Sprintf("nft -f /etc/faults.nft; ip route add 10.9.9.36/32 via %s; ip route add %s/32 dev eth1 mtu lock 1300", lab.Server2, server(narrowPath)))
	l.Sh(l.C[0], fmt.Sprintf(`nft add table ip deaf; nft 'add chain ip deaf in { type filter hook input priority 0; }'; nft 'add chain ip deaf out { type filter hook output priority 0; }'
nft add rule ip deaf in icmp type destination-unreachable icmp code frag-needed drop; nft add rule ip deaf out ip daddr %s ip protocol gre queue num 1`, server(deviceDrops))) // drop would tell the program; nobody takes from the queue
	l.Write(l.C[0], "/etc/ppp/options", "")
}
