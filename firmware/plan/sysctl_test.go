package plan

import (
	"strconv"
	"testing"
	"time"
)

// TestIdleTunnels: a tunnel on which nothing is said but what its protocol says
// by default keeps its connection, also when two of these messages get lost.
func TestIdleTunnels(t *testing.T) {
	set := map[string]time.Duration{}
	for _, s := range sysctls(Board{RAM: 64, WANPort: "eth1"}) {
		if n, err := strconv.Atoi(s.Value); err == nil {
			set[s.Key] = time.Duration(n) * time.Second
		}
	}
	const p = "net/netfilter/nf_conntrack_"
	for _, c := range []struct {
		what, sysctl string
		every        time.Duration
	}{
		{"WireGuard's PersistentKeepalive, as wg(8) advises it", "udp_timeout_stream", 25 * time.Second},
		{"OpenVPN's keepalive 10 120, as its sample configurations have it", "udp_timeout_stream", 10 * time.Second},
		{"OpenVPN's keepalive over TCP", "tcp_timeout_established", 10 * time.Second},
		{"NAT-T keepalive, RFC 3948 4", "udp_timeout_stream", 20 * time.Second},
		{"L2TP Hello, RFC 2661 5.5", "udp_timeout_stream", 60 * time.Second},
		{"PPTP Echo-Request, RFC 2637 3.1.4", "tcp_timeout_established", 60 * time.Second},
		{"SSTP Hello timer, [MS-SSTP] 3.1.2.3", "tcp_timeout_established", 60 * time.Second},
		{"PPP's LCP Echo-Request in PPTP, pppd's lcp-echo-interval", "gre_timeout_stream", 30 * time.Second},
		{"PPP in L2TPv3 over IP", "generic_timeout", 60 * time.Second},
	} {
		if got := set[p+c.sysctl]; got <= 3*c.every {
			t.Errorf("%s, every %v: %s is %v", c.what, c.every, c.sysctl, got)
		}
	}
	// Before the answers make a stream of it, a connection lives for one of them.
	if got := set[p+"udp_timeout"]; got <= 60*time.Second {
		t.Errorf("udp_timeout is %v", got)
	}
}
