package netd

import (
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// TestShowServers: what the Internet reaches is told as the commits go.
func TestShowServers(t *testing.T) {
	r := newRouter(t, "203.0.113")
	r.online()
	for _, c := range []struct{ set, reason string }{
		{"firewall vpn-server pptp to 192.168.1.10 external-port 4723", ""},
		{"passthrough pptp off", "passthrough pptp is off"},
		{"passthrough pptp on", ""},
	} {
		s, base := r.candidate()
		if err := settings.Set(s, strings.Fields(c.set)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.commit(base, s, 0); err != nil {
			t.Fatal(err)
		}
		var f api.Firewall
		if err := r.call(api.MethodFirewall, nil, &f); err != nil {
			t.Fatal(err)
		}
		if len(f.Servers) != 1 {
			t.Fatalf("after %s: servers %+v", c.set, f.Servers)
		}
		if v := f.Servers[0]; v.Protocol != "pptp" || v.Address.String() != "192.168.1.10" || v.InEffect != (c.reason == "") || v.Reason != c.reason ||
			strings.Join(v.Ports, ", ") != "tcp 4723 to 1723, gre" {
			t.Errorf("after %s: %+v", c.set, v)
		}
	}
}
