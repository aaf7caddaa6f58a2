package plan

import (
	"strconv"

	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
)

// sysctls are the kernel's settings, in the order in which they are written:
// ip_forward first, since it resets others.
func sysctls(b Board) []netstate.Sysctl {
	var l []netstate.Sysctl
	add := func(key, value, why string, optional bool) {
		l = append(l, netstate.Sysctl{Key: key, Value: value, Why: why, Optional: optional})
	}
	must := func(key, value, why string) { add(key, value, why, false) }
	may := func(key, value, why string) { add(key, value, why, true) }

	must("net/ipv4/ip_forward", "1", "it is a router")
	// Without it the next address of a subnet goes with the first one.
	must("net/ipv4/conf/all/promote_secondaries", "1", "a changed address")
	for _, c := range []string{"all", "default"} {
		p := "net/ipv4/conf/" + c + "/"
		must(p+"rp_filter", "1", "RFC 3704: no forged sources")
		must(p+"accept_redirects", "0", "a router takes no redirects")
		must(p+"send_redirects", "0", "a router with NAT sends none")
		must(p+"accept_source_route", "0", "RFC 7126")
		may("net/ipv6/conf/"+c+"/disable_ipv6", "1", "IPv6 is off")
	}
	may("net/ipv4/tcp_syncookies", "1", "SSH and DNS under a SYN flood")
	may("net/bridge/bridge-nf-call-iptables", "0", "the bridge is no router")
	conntrack(b, may)

	for _, dev := range []string{Bridge, b.WANPort} {
		link := func(key, value, why string, optional bool) {
			l = append(l, netstate.Sysctl{Key: key, Value: value, Link: dev, Why: why, Optional: optional})
		}
		link("net/ipv4/conf/"+dev+"/send_redirects", "0", "a router with NAT sends none", false)
		link("net/ipv4/conf/"+dev+"/rp_filter", "1", "RFC 3704: no forged sources", false)
		link("net/ipv6/conf/"+dev+"/disable_ipv6", "1", "IPv6 is off", true)
	}
	// The WAN does not learn by ARP which addresses the LAN has.
	l = append(l, netstate.Sysctl{Key: "net/ipv4/conf/" + b.WANPort + "/arp_ignore", Value: "1", Link: b.WANPort,
		Why: "the LAN's addresses are its own"})
	return l
}

// conntrack sizes and times the connection table.
func conntrack(b Board, set func(key, value, why string)) {
	const p = "net/netfilter/nf_conntrack_"
	limit := firewall.Connections(b.RAM)
	set(p+"buckets", strconv.Itoa(limit/2), "board: memory")
	set(p+"max", strconv.Itoa(limit), "board: memory")
	set(p+"acct", "1", "show connections: bytes")
	set(p+"timestamp", "1", "show passthrough: age")
	// Off means ended: with the kernel's default of 1 any packet of a TCP
	// connection whose entry was deleted makes a new entry, from the LAN always
	// an allowed one. After a reboot TCP has to connect anew; netd's own
	// restarts don't touch the entries.
	set(p+"tcp_loose", "0", "an ended connection stays ended")
	set(p+"tcp_timeout_established", "7440", "RFC 5382: 2 h 4 min")
	set(p+"udp_timeout", "120", "RFC 4787: 2 min")
	set(p+"udp_timeout_stream", "300", "RFC 4787: 5 min")
	// Quiet tunnels: ESP and IP protocol 115 are generic to conntrack, and
	// the data of PPTP is GRE. PPTP's GRE ends with its control connection.
	set(p+"generic_timeout", "1800", "passthrough: quiet tunnels stay")
	set(p+"gre_timeout", "180", "passthrough: quiet tunnels stay")
	set(p+"gre_timeout_stream", "1800", "passthrough: quiet tunnels stay")
}
