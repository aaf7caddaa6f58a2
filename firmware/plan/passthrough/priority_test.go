package passthrough

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func TestKeeper(t *testing.T) {
	s := settings.Default()
	for _, words := range [][]string{
		{"lan", "hosts", "laptop", "mac", "02:00:00:00:00:09", "address", "192.168.1.20"},
		{"lan", "hosts", "phone", "mac", "02:00:00:00:00:0a"}, // by its lease
		{"passthrough", "priority", "laptop", "phone", "192.168.1.30"},
	} {
		if err := settings.Set(s, words); err != nil {
			t.Fatal(err)
		}
	}
	lease := func(mac, addr string) facts.Lease { return facts.Lease{MAC: mac, Addr: netip.MustParseAddr(addr)} }
	laptop, phone, third := lease("02:00:00:00:00:09", "192.168.1.20"), lease("02:00:00:00:00:0a", "192.168.1.101"), lease("02:00:00:00:00:0b", "192.168.1.30")
	stranger := lease("02:00:00:00:00:0c", "192.168.1.150")
	for _, c := range []struct {
		leases []facts.Lease
		keeper string
		all    string
	}{
		{nil, "192.168.1.20", "[192.168.1.20 192.168.1.30]"},
		{[]facts.Lease{stranger}, "192.168.1.20", "[192.168.1.20 192.168.1.30]"},
		{[]facts.Lease{third}, "192.168.1.30", "[192.168.1.20 192.168.1.30]"},
		{[]facts.Lease{third, phone}, "192.168.1.101", "[192.168.1.20 192.168.1.101 192.168.1.30]"},
		{[]facts.Lease{third, phone, laptop}, "192.168.1.20", "[192.168.1.20 192.168.1.101 192.168.1.30]"},
	} {
		f := facts.Facts{Leases: c.leases}
		if got := Keeper(s, f); got.String() != c.keeper {
			t.Errorf("%v: %s keeps its port, want %s", c.leases, got, c.keeper)
		}
		if got := fmt.Sprint(Priority(s, f)); got != c.all {
			t.Errorf("%v: the order is %s, want %s", c.leases, got, c.all)
		}
	}
	if got := Keeper(settings.Default(), facts.Facts{Leases: []facts.Lease{laptop}}); got.IsValid() {
		t.Errorf("%s keeps its port, and nobody is named", got)
	}
}
