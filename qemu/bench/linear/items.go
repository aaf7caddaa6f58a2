package linear

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// Forwards is n port forwards of TCP to devices of the LAN, from port 10000 on:
// the same for every peer. It is for n up to 50000.
func Forwards(lan netip.Prefix, n int) map[string]settings.Forward {
	const devices = 200 // .10 to .209 of a /24
	network := binary.BigEndian.Uint32(lan.Masked().Addr().AsSlice())
	all := make(map[string]settings.Forward, n)
	for i := range n {
		to := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, network+10+uint32(i%devices))))
		all[fmt.Sprintf("f%05d", i)] = settings.Forward{Enabled: true, Protocol: settings.TCP, Port: 10000 + i, To: to, ToPort: 8000 + i/devices}
	}
	return all
}

// Rules is n rules about hosts of 198.18.0.0/15, the network for benchmarks (RFC
// 2544): what is measured goes elsewhere, and so past all of them.
func Rules(n int) []Rule {
	all := make([]Rule, n)
	for i := range all {
		dest := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0xc6120000+uint32(i))))
		all[i] = Rule{Name: fmt.Sprintf("r%05d", i), Protocol: "tcp", Dest: dest, Port: 25}
	}
	return all
}
