package shell_test

import (
	"net/netip"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
)

var (
	ip = netip.MustParseAddr
	ap = netip.MustParseAddrPort
	px = netip.MustParsePrefix
)

func ago(d time.Duration) *time.Duration { return &d }

// canned is a router with some traffic.
func canned(n *apitest.Netd) {
	now := n.Now()
	n.Notes = api.LoginNotes{
		Problems: []string{"WAN offers 192.168.1.0/24, the same as your LAN, so the Internet is off. Fix: set lan address 192.168.77.1/24; commit confirm 2m"},
	}
	n.Answers = map[string]any{
		api.MethodStatus: api.Status{
			Hostname: "culvert", Board: "qemu-mips", Version: "0.1", Uptime: 26*time.Hour + 3*time.Minute, Time: now, ClockSet: true, Revision: 4, Claimed: true,
			WAN: api.WANStatus{Up: true, Mode: "dhcp", Address: px("203.0.113.20/24"), Gateway: ip("203.0.113.1"), DNS: []netip.Addr{ip("203.0.113.1")}, Expires: now.Add(50 * time.Minute)},
			LAN: api.LANStatus{Address: px("192.168.1.1/24"), Leases: 2}, Memory: api.Memory{Total: 60 << 20, Available: 38 << 20, Anonymous: 7 << 20},
			Conntrack: api.Fill{Used: 120, Max: 16384}, DNS: api.EdgeStats{Queries: 1200, Hits: 900, Failures: 3},
			Services: []api.Service{{Name: "netd", State: "running", PID: 40, Since: time.Hour}, {Name: "edge", State: "running", PID: 44, Restarts: 1, Since: 5 * time.Minute, LastExit: "signal: killed"}},
			Problems: []string{"No time server answered yet."},
		},
		api.MethodInterfaces: []api.Interface{
			{Name: "br-lan", Role: "lan", Up: true, Carrier: true, MAC: "52:54:00:00:00:01", MTU: 1500, Addresses: []netip.Prefix{px("192.168.1.1/24")}, RxBytes: 123456, TxBytes: 7654321},
			{Name: "eth1", Role: "wan", Up: true, MAC: "52:54:00:00:00:02", MTU: 1500},
		},
		api.MethodLeases: []api.Lease{
			{Addr: ip("192.168.1.10"), MAC: "02:00:00:00:00:10", Name: "printer", Static: true},
			{Addr: ip("192.168.1.100"), MAC: "02:00:00:00:00:64", Name: "laptop", Expires: now.Add(11 * time.Hour)},
		},
		api.MethodPassthrough: []api.Session{
			{Protocol: "pptp", Kind: "control", Device: ip("192.168.1.100"), Name: "laptop", Server: ip("203.0.113.5"), IDs: "tcp 50412>1723", State: "up", Owner: "exact", Age: 95 * time.Second, Last: ago(41 * time.Second), BytesOut: 1420, BytesIn: 980, PktsOut: 12, PktsIn: 9},
			{Protocol: "pptp", Kind: "data", Device: ip("192.168.1.100"), Name: "laptop", Server: ip("203.0.113.5"), IDs: "call 0x4a1f/0x0002", State: "up", Owner: "exact", Age: 94 * time.Second, Last: ago(0), BytesOut: 4_812_000, BytesIn: 91_000_000, PktsOut: 41_231, PktsIn: 65_120},
			{Protocol: "ipsec", Kind: "nat-t", Device: ip("192.168.1.101"), Server: ip("198.51.100.9"), IDs: "udp 4500>4500", State: "up", Owner: "exact", Age: 3*time.Hour + 20*time.Minute, BytesOut: 70_000, BytesIn: 2_100_000_000, PktsOut: 900, PktsIn: 1_500_000},
			{Protocol: "ipsec", Kind: "esp", Device: ip("192.168.1.101"), Server: ip("198.51.100.12"), IDs: "spi 0xc0ffee01 out", State: "idle", Owner: "copied", Age: time.Hour, Last: ago(5 * time.Minute), BytesOut: 70_000, PktsOut: 700},
			{Protocol: "pptp", Kind: "control", Device: ip("192.168.1.10"), Name: "nas", Server: ip("198.51.100.77"), Inbound: true, IDs: "tcp 1723>50001", State: "negotiating", Owner: "exact", Age: 3 * time.Second, BytesOut: 0, BytesIn: 60, PktsIn: 1},
		},
		api.MethodCounters: api.PassthroughCounters{
			Servers: []api.ServerCounters{
				{Server: ip("198.51.100.9"), Devices: 1, SPIsOut: 2, PktsOut: 41_231, BytesOut: 4_812_000, SPIsIn: 1, PktsIn: 65_120, BytesIn: 91_000_000},
				{Server: ip("198.51.100.12"), Devices: 3, Copied: true, SPIsBound: 1, Copies: 1200, SPIsOut: 3, PktsOut: 900, BytesOut: 70_000, SPIsIn: 4, PktsIn: 1_500_000, BytesIn: 2_100_000_000},
			},
			Sets:          []api.SetFill{{Name: "assocs", Used: 4, Max: 4096}, {Name: "inbound", Used: 5, Max: 4096}},
			Expectations:  api.Fill{Used: 2, Max: 1024},
			SecondDevices: 2, Refused: 7, MostDevices: 64, Bindings: 2, Corrections: 1, Clashes: 4,
			Names: []api.ServerName{
				{Name: "none.example.com", Addresses: []netip.Addr{}, Next: 4 * time.Minute, Problem: "there is no such name"},
				{Name: "vpn.example.com", Addresses: []netip.Addr{ip("198.51.100.9"), ip("198.51.100.12")}, Held: []netip.Addr{ip("203.0.113.7")}, Resolved: ago(12 * time.Second), Next: 48 * time.Second},
			},
			Dropped:     []api.Dropped{{Device: ip("192.168.1.100"), Name: "laptop", Packets: 19_936}},
			Crowding:    []netip.Addr{ip("192.168.1.100")},
			Keeper:      ip("192.168.1.100"),
			L2TPClashes: []api.L2TPClash{{Server: ip("198.51.100.30"), Tunnel: 4711, Device: ip("192.168.1.101"), Owner: ip("192.168.1.100"), Time: now.Add(-time.Minute)}},
		},
		api.MethodProtection: api.Protection{
			Address: ip("100.70.1.2"), Behind: "cgnat",
			Devices: []api.DeviceProtection{
				{Device: ip("192.168.1.100"), Name: "laptop", State: "unprotected", Reasons: []string{"PPTP encryption is broken (PPTP to 203.0.113.5)", "DNS outside a tunnel: 3 connections, e.g. udp to 8.8.8.8:53"},
					Tunnels: []string{"WireGuard to 198.51.100.4"}, Outside: []api.Outside{{Kind: "pptp", Flows: 2, Example: "PPTP to 203.0.113.5"}, {Kind: "dns", Flows: 3, Example: "udp to 8.8.8.8:53"}}},
				{Device: ip("192.168.1.101"), State: "protected", Reasons: []string{"IPsec to 198.51.100.9"}, Tunnels: []string{"IPsec to 198.51.100.9"}},
			},
		},
		api.MethodConnections: []api.Connection{
			{Protocol: "tcp", Src: ap("192.168.1.100:50412"), Dst: ap("203.0.113.5:1723"), ReplySrc: ap("203.0.113.5:1723"), State: "ESTABLISHED", Bytes: 2400, Timeout: 4 * 24 * time.Hour},
			{Protocol: "udp", Src: ap("192.168.1.101:4500"), Dst: ap("198.51.100.9:4500"), ReplySrc: ap("198.51.100.9:4500"), State: "", Offloaded: true, Bytes: 2_100_000_000, Timeout: 3 * time.Minute},
		},
		api.MethodDiagnose: api.Diagnosis{
			Device: ip("192.168.1.100"), Name: "laptop", Server: ip("203.0.113.5"), Protocol: "pptp", Settled: true, Cause: "gre-silent",
			Text: "The control connection to 203.0.113.5 is up, but GRE never came back.", Fix: "Let the server's firewall pass IP protocol 47.",
			Hints: []string{"The WAN address 100.64.1.1 is shared."},
			Evidence: []api.Evidence{
				{Part: "gre", PacketsOut: 5, BytesOut: 340, Age: 12 * time.Second, Last: time.Second, Watched: true},
				{Part: "tcp 1723", Ports: "50412>1723", PacketsOut: 6, BytesOut: 500, PacketsIn: 5, BytesIn: 420, Age: 13 * time.Second},
				{Part: "udp 500", Ports: "500>500", Uncounted: true, Age: time.Minute},
			},
		},
		api.MethodFirewall: api.Firewall{
			Ruleset: []string{"table inet culvert {", "}"},
			Servers: []api.VPNServer{
				{Protocol: "ipsec", Device: "nas", Address: ip("192.168.1.20"), Ports: []string{"udp 500", "udp 4500", "esp"}, InEffect: true},
				{Protocol: "pptp", Device: "192.168.1.10", Address: ip("192.168.1.10"), Ports: []string{"tcp 4723 to 1723", "gre"}, Reason: "passthrough pptp is off"},
				{Protocol: "l2tp", Device: "192.168.1.10", Address: ip("192.168.1.10"), Ports: []string{"udp 1701"}, InEffect: true, Peers: []string{"198.51.100.0/24"}},
			},
		},
		api.MethodLog:     []api.LogLine{{Time: now, Service: "netd", Text: "wan: lease 203.0.113.20/24"}},
		api.MethodVersion: api.Version{Culvert: "0.1", Kernel: "6.12.57", Go: "go1.26", Board: "qemu-mips"},
	}
}
