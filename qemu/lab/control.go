package lab

// controlRules is NAT as a stock Linux does it, with all that PPTP needs.
const controlRules = `table ip nat {
 ct helper pptp { type "pptp" protocol tcp; }
 chain helper { type filter hook prerouting priority filter; tcp dport 1723 ct helper set "pptp"; }
 chain forwards { type nat hook prerouting priority dstnat; ip daddr 203.0.113.50 tcp dport 1723 dnat to 192.168.1.10; }
 chain out { type nat hook postrouting priority srcnat; oifname "eth1" masquerade; }
}
`

// NewControl is the lab with one more peer, a stock Linux that does NAT, in the
// router's place: what fails there is the peers' fault.
func NewControl(t T) *Lab {
	t.Helper()
	l := newLab(t, Config{Peers: true})
	l.needs("out/peers/linux", "out/peers/root")
	l.network()
	t.Cleanup(l.report)
	l.startPeers()
	nat, err := l.Peers.NewHost("nat")
	l.check(err)
	l.plug(nat, "blan", "eth0")
	l.plug(nat, "bwan", "eth1")
	l.check(nat.Write("/etc/nat.nft", controlRules, 0o644))
	l.sh(nat, `ip addr add 192.168.1.1/24 dev eth0; ip addr add 203.0.113.50/24 dev eth1; ip route add default via `+ISP+`
nft -f /etc/nat.nft; echo 1 > /proc/sys/net/ipv4/ip_forward`)
	l.start(nat, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--interface=eth0", "--bind-interfaces", "--no-resolv", "--no-hosts",
		"--server="+ISP, "--dhcp-range=192.168.1.100,192.168.1.120,255.255.255.0,10m",
		"--no-ping", "--dhcp-host=c1,192.168.1.10", "--dhcp-option=option:router,192.168.1.1", "--log-dhcp", "--log-facility=-")
	l.NAT = nat
	return l
}
